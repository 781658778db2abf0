# In a driver domain, with bash and Xen's tools: starts xl devd, and the daemon with its unit's user and capability. Then
# runs what dom0 writes to the key data/command ("number command"), and answers in data/status ("number status").
export PATH=/usr/local/bin:/usr/bin:/usr/sbin:/bin:/sbin HOME=/root TERM=dumb LC_ALL=C
. /share/lib.sh
ln -sf /proc/self/fd /dev/fd
mkdir -p /dev/shm /run/xen; mount -t tmpfs shm /dev/shm
modprobe -a xen-privcmd xen-evtchn xen-gntdev xenfs
mount -t xenfs xenfs /proc/xen
BACKEND=/local/domain/$(xenstore-read domid)/backend/vbd
image /root/a.img 64M; image /root/b.img 64M
is_closed() { ls -l /proc/$DAEMON/fd > /tmp/open && not grep -F " $1" /tmp/open; }
show() { (tail -n +1 -s 0.5 -F "/tmp/$1.log" 2>/dev/null | sed -u "s/^/$1: /") & }
show daemon; show devd
install_product
as_unit
xl devd -F > /tmp/devd.log 2>&1 &
if daemon_start; then echo "MARK started"; else echo "MARK not-started"; fi
last=
while true; do
  command=$(xenstore-read data/command 2>/dev/null)
  if [ "$command" = "$last" ]; then sleep 0.5; continue; fi
  last=$command
  echo "# ${command#* }"
  eval "${command#* }"
  xenstore-write data/status "${command%% *} $?"
done
