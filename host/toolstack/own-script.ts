/** xbdback's hotplug script, by its name or path (xen/block-xbdback). Others' scripts are run by xl alone. */
export const OWN_SCRIPT = /(^|\/)block-xbdback$/;
