/*
 * Reads disk specifications, each ended by a zero byte, from standard input, and prints what libxlutil makes of each as a
 * line of JSON: null where it refuses it. Strings are in hexadecimal, and null where there is none.
 */
#include <libxlutil.h>
#include <stdio.h>
#include <stdlib.h>

static void print_text(const char *key, const char *text) {
  printf("\"%s\":", key);
  if (!text) {
    printf("null,");
    return;
  }
  putchar('"');
  for (; *text; text++) printf("%02x", (unsigned char)*text);
  printf("\",");
}

static void print_disk(const libxl_device_disk *disk) {
  putchar('{');
  print_text("target", disk->pdev_path);
  print_text("vdev", disk->vdev);
  print_text("backend", disk->backend_domname);
  print_text("script", disk->script);
  print_text("format", libxl_disk_format_to_string(disk->format));
  print_text("backendType", libxl_disk_backend_to_string(disk->backend));
  printf("\"readWrite\":%d,\"cdrom\":%d,\"directIoSafe\":%d,\"discard\":%d}\n", disk->readwrite != 0,
         disk->is_cdrom != 0, disk->direct_io_safe,
         libxl_defbool_is_default(disk->discard_enable) ? -1 : libxl_defbool_val(disk->discard_enable));
}

int main(void) {
  FILE *report = fopen("/dev/null", "w");
  XLU_Config *config = report ? xlu_cfg_init(report, "specification") : NULL;
  char *specification = NULL;
  size_t room = 0;

  if (!config) return 1;
  while (getdelim(&specification, &room, 0, stdin) > 0) {
    const char *specifications[] = {specification};
    libxl_device_disk disk;
    libxl_device_disk_init(&disk);
    if (xlu_disk_parse(config, 1, specifications, &disk) == 0)
      print_disk(&disk);
    else
      puts("null");
    libxl_device_disk_dispose(&disk);
  }
  xlu_cfg_destroy(config);
  return 0;
}
