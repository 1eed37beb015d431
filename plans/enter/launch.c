/*
 * launch: runs a program of one root filesystem while another is /. No libc, no relocations, no state.
 *
 *   launch WRAPPER ARG...             what the kernel makes of a wrapper, a file whose first line is #!ROOT/.cdebug/launch
 *                                     and whose second names a program of the root filesystem ROOT; runs it there:
 *                                     its own loader, with the library path in ROOT/.cdebug/libraries; its script's
 *                                     interpreter, likewise; or, where it is static, just itself
 *   launch IDS ROOT PROGRAM ARG...    enters ROOT as UID:GID[,GROUP...], or as who it is where IDS is "-"
 *   launch datagrams PROGRAM ARG...   carries datagrams over its stdin and stdout, a stream, each behind its length in two
 *                                     bytes, the higher first; PROGRAM has them as they are on its own stdin and stdout
 *   launch stream PROGRAM ARG...      the same the other way round: its own stdin and stdout are a datagram socket,
 *                                     PROGRAM's are the stream; both end after a minute without a datagram
 *   launch halves PROGRAM ARG...      carries a connection over its stdin and stdout, two streams of blocks, each behind
 *                                     its length in two bytes, one more byte behind an odd one; an empty one is the
 *                                     end of its direction. PROGRAM has the connection on its stdin and stdout, a
 *                                     socket; one that breaks kills it
 *   launch hold                       waits, as the first process of a container, for SIGTERM; reaps what is left to it
 *
 * A variable would do for the library path, but the programs of the other root filesystem would inherit it.
 * Layout of files: elf(5), the "#!" line: execve(2); the options of both loaders, glibc's and musl's: ld.so(8).
 */

#include <elf.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/prctl.h>
#include <linux/time_types.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/syscall.h>

enum { path_size = 4096, head_size = 4096, libraries_size = 1 << 16, links = 40, interpreters = 5, prefixes = 16, most_groups = 1024 };
enum { refused = 125, not_executable = 126, not_found = 127 };

#ifdef __x86_64__
__asm__(".globl _start\n_start: xor %ebp, %ebp\n mov %rsp, %rdi\n and $-16, %rsp\n call begin\n");
static long call(long number, long a, long b, long c, long d) {
  long result;
  register long r10 __asm__("r10") = d;
  __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10) : "rcx", "r11", "memory");
  return result;
}
#elif defined __aarch64__
__asm__(".globl _start\n_start: mov x29, #0\n mov x0, sp\n bl begin\n");
static long call(long number, long a, long b, long c, long d) {
  register long x8 __asm__("x8") = number;
  register long x0 __asm__("x0") = a;
  register long x1 __asm__("x1") = b;
  register long x2 __asm__("x2") = c;
  register long x3 __asm__("x3") = d;
  __asm__ volatile("svc #0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3) : "memory");
  return x0;
}
#endif
#define call(number, a, b, c, d) call(number, (long)(a), (long)(b), (long)(c), (long)(d))

static char **environment;

static long length(const char *text) {
  long count = 0;
  while (text[count]) count++;
  return count;
}

static void say(const char *text) { call(SYS_write, 2, text, length(text), 0); }

static _Noreturn void fail(int code, const char *text, const char *thing, const char *why) {
  say("cdebug: Cannot ");
  say(text);
  say(thing);
  say(why);
  say("\n");
  for (;;) call(SYS_exit_group, code, 0, 0, 0);
}

static int same(const char *a, const char *b) {
  while (*a && *a == *b) a++, b++;
  return *a == *b;
}

static const char *base(const char *path) {
  const char *found = path;
  for (; *path; path++) {
    if (*path == '/') found = path + 1;
  }
  return found;
}

/* Writes the texts after one another, cut at the end of a path's room. */
static void join(char *to, const char *a, const char *b, const char *c) {
  const char *parts[] = {a, b, c};
  char *end = to + path_size - 1;
  for (int i = 0; i < 3; i++) {
    for (const char *at = parts[i]; *at && to < end; at++) *to++ = *at;
  }
  *to = 0;
}

/* The file's bytes from an offset on, as many as there is room for, a zero after them; their number, or a negative error. */
static long bytes(const char *path, unsigned long offset, char *to, long size) {
  long fd = call(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
  if (fd < 0) return fd;
  long count = 0, got;
  while ((got = call(SYS_pread64, fd, to + count, size - 1 - count, offset + (unsigned long)count)) > 0) count += got;
  call(SYS_close, fd, 0, 0, 0);
  to[count] = 0;
  return count;
}

/* Where a path of the root filesystem is, every link on the way followed as if that were /. */
static void resolve(const char *root, const char *path, char *found) {
  char left[path_size], link[path_size];
  join(left, path, "", "");
  join(found, root, "", "");
  long top = length(root);
  int followed = 0;
  for (char *at = left; *at;) {
    char *part = at;
    while (*at && *at != '/') at++;
    if (*at) *at++ = 0;
    long size = length(found);
    if (!*part || same(part, ".")) continue;
    if (same(part, "..")) {
      while (size > top && found[--size] != '/') {}
      found[size] = 0;
      continue;
    }
    join(found, found, "/", part);
    long count = call(SYS_readlinkat, AT_FDCWD, found, link, path_size - 1);
    if (count < 0 || ++followed > links) continue;
    link[count] = 0;
    found[*link == '/' ? top : size] = 0;
    join(link, link, "/", at);
    join(left, link, "", "");
    at = left;
  }
}

/* Becomes a program of the root filesystem. There is room for `prefixes` texts before `args`. */
static _Noreturn void launch(const char *root, const char *name, char **args) {
  static char path[path_size], shown[path_size], loader[path_size], text[head_size], libraries[libraries_size];
  static char names[interpreters][path_size], scripts[interpreters][path_size];
  for (int depth = 0; depth < interpreters; depth++) {
    resolve(root, name, path);
    join(shown, root, name, "");
    long count = bytes(path, 0, text, head_size);
    if (count < 0) fail(not_found, "run ", name, ": the toolkit does not have it");

    Elf64_Ehdr *file = (void *)text;
    if (count >= (long)sizeof *file && text[0] == 0x7f && text[1] == 'E' && text[2] == 'L' && text[3] == 'F') {
      static char parts[head_size], interpreter[path_size];
      count = file->e_ident[EI_CLASS] == ELFCLASS64 ? bytes(path, file->e_phoff, parts, head_size) : 0;
      for (Elf64_Phdr *part = (void *)parts; (char *)(part + 1) <= parts + count && file->e_phnum--; part++) {
        if (part->p_type == PT_INTERP) bytes(path, part->p_offset, interpreter, path_size);
      }
      if (!*interpreter) {
        *--args = shown;
        call(SYS_execve, path, args, environment, 0);
        fail(not_executable, "run ", name, ": the kernel does not take it");
      }
      resolve(root, interpreter, loader);
      join(libraries, root, "/.cdebug/libraries", "");
      if (bytes(libraries, 0, libraries, libraries_size) < 0) *libraries = 0;
      *--args = path;
      /* Older loaders do not know this option, and few programs need it. */
      if (!same(base(path), base(name))) *--args = shown, *--args = "--argv0";
      *--args = libraries;
      *--args = "--library-path";
      *--args = loader;
      call(SYS_execve, loader, args, environment, 0);
      fail(not_executable, "run ", name, ": the toolkit has no loader for it");
    }

    /* A script; one without a first line for the kernel is the shell's, as every shell does it. */
    join(scripts[depth], path, "", "");
    *--args = scripts[depth];
    if (text[0] != '#' || text[1] != '!') {
      name = "/bin/sh";
      continue;
    }
    char *at = text + 2, *option, *end;
    while (*at == ' ' || *at == '\t') at++;
    for (end = at; *end && *end != '\n';) end++;
    while (end > at && (end[-1] == ' ' || end[-1] == '\t')) end--;
    *end = 0;
    for (option = at; *option && *option != ' ' && *option != '\t';) option++;
    if (*option) {
      *option++ = 0;
      while (*option == ' ' || *option == '\t') option++;
    }
    join(names[depth], at, "", "");
    name = names[depth];
    if (*option) {
      static char options[interpreters][head_size];
      join(options[depth], option, "", "");
      *--args = options[depth];
    }
  }
  fail(not_executable, "run ", name, ": its interpreters are scripts without end");
}

static _Noreturn void wrapped(char *self, const char *wrapper, char **args) {
  static char text[head_size];
  if (bytes(wrapper, 0, text, head_size) < 0) fail(not_found, "read ", wrapper, "");
  char *name = text;
  while (*name && *name++ != '\n') {}
  for (char *at = name; *at; at++) {
    if (*at == '\n') *at = 0;
  }
  long top = length(self) - (long)sizeof "/.cdebug/launch" + 1;
  if (top < 0 || !same(self + top, "/.cdebug/launch")) fail(refused, "find the toolkit of ", self, "");
  self[top] = 0;
  launch(self, name, args);
}

/* A user's or group's number. What is none must not be taken for 0, which is root, nor for -1, which is no change. */
static unsigned number(char **text, const char *ids) {
  unsigned long value = 0;
  char *start = *text;
  for (; **text >= '0' && **text <= '9' && value < 0xffffffff; ++*text) value = value * 10 + (unsigned)(**text - '0');
  if (*text == start || value >= 0xffffffff || (**text && **text != ':' && **text != ',')) {
    fail(refused, "run as ", ids, ": these are no numbers of a user and groups");
  }
  return (unsigned)value;
}

static void set_rights(unsigned rights) {
  struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, 0};
  struct __user_cap_data_struct data[2] = {{rights, rights, 0}, {0, 0, 0}};
  call(SYS_capset, &head, data, 0, 0);
}

static _Noreturn void enter(char *ids, const char *root, char **args) {
  /* Who is not root, but the target's own user, may look where root may not. */
  int entered = same(root, "/") || call(SYS_chroot, root, 0, 0, 0) == 0;
  if (*ids != '-') {
    static unsigned groups[most_groups];
    int count = 0;
    char *shown = ids;
    unsigned uid = number(&ids, shown);
    while (*ids && count < most_groups) ids++, groups[count++] = number(&ids, shown);
    call(SYS_prctl, PR_SET_KEEPCAPS, !entered, 0, 0);
    if (call(SYS_setgroups, count, groups, 0, 0) || call(SYS_setresgid, groups[0], groups[0], groups[0], 0) ||
        call(SYS_setresuid, uid, uid, uid, 0)) {
      fail(refused, "run as ", shown, ": the sidecar may not change its user; --cap-add SETUID,SETGID lets it");
    }
    if (!entered) {
      set_rights(1u << CAP_SYS_CHROOT);
      entered = call(SYS_chroot, root, 0, 0, 0) == 0;
      set_rights(0);
    }
  }
  if (!entered) fail(refused, "enter the target's root filesystem: the sidecar may not look into ", root, "");
  call(SYS_chdir, "/", 0, 0, 0);
  call(SYS_execve, *args, args, environment, 0);
  fail(not_found, "run ", *args, "");
}

static _Noreturn void hold(void) {
  unsigned long all = ~0ul;
  call(SYS_rt_sigprocmask, SIG_BLOCK, &all, 0, sizeof all);
  for (;;) {
    long signal = call(SYS_rt_sigtimedwait, &all, 0, 0, sizeof all);
    if (signal == SIGTERM || signal == SIGINT) call(SYS_exit_group, 0, 0, 0, 0);
    while (call(SYS_wait4, -1, 0, 1, 0) > 0) {}
  }
}

static _Noreturn void end(int code) {
  for (;;) call(SYS_exit_group, code, 0, 0, 0);
}

/* Starts a program whose stdin and stdout are a socket of this type; its PID, and the socket's other end. */
static long start(int type, char **args, int *other) {
  int pair[2];
  if (call(SYS_socketpair, AF_UNIX, type, 0, pair)) end(refused);
  long child = call(SYS_clone, SIGCHLD, 0, 0, 0);
  if (child < 0) end(refused);
  if (child == 0) {
    call(SYS_dup3, pair[1], 0, 0, 0);
    call(SYS_dup3, pair[1], 1, 0, 0);
    call(SYS_close, pair[0], 0, 0, 0);
    call(SYS_close, pair[1], 0, 0, 0);
    call(SYS_execve, *args, args, environment, 0);
    fail(not_found, "run ", *args, "");
  }
  call(SYS_close, pair[1], 0, 0, 0);
  *other = pair[0];
  return child;
}

/* Writes all of it; whether it could. */
static int put(int to, const unsigned char *from, long size) {
  for (long got; size > 0; from += got, size -= got) {
    if ((got = call(SYS_write, to, from, size, 0)) <= 0) return 0;
  }
  return 1;
}

/* Reads as much as is asked for; whether it came. */
static int get(int from, unsigned char *to, long size) {
  for (long got; size > 0; to += got, size -= got) {
    if ((got = call(SYS_read, from, to, size, 0)) <= 0) return 0;
  }
  return 1;
}

enum { most = 65535 };

static long even(long size) { return size + (size & 1); }

static _Noreturn void halves(char **args) {
  static unsigned char block[2 + most + 1];
  int connection;
  long program = start(SOCK_STREAM, args, &connection);
  long reader = call(SYS_clone, SIGCHLD, 0, 0, 0);
  if (reader < 0) end(refused);
  if (reader == 0) {
    for (;;) {
      long size = get(0, block, 2) ? block[0] << 8 | block[1] : -1;
      if (size == 0) call(SYS_shutdown, connection, SHUT_WR, 0, 0), end(0);
      if (size < 0 || !get(0, block, even(size))) call(SYS_kill, program, SIGKILL, 0, 0), end(1);
      if (!put(connection, block, size)) end(1);
    }
  }
  long size;
  while ((size = call(SYS_read, connection, block + 2, most, 0)) > 0) {
    block[0] = (unsigned char)(size >> 8), block[1] = (unsigned char)size;
    if (!put(1, block, even(size + 2))) call(SYS_kill, program, SIGKILL, 0, 0), end(1);
  }
  /* One that has closed its half lives on; one that has gone has an exit code first. Source: unix_poll() of Linux. */
  static const unsigned char last[2];
  struct pollfd gone = {connection, 0, 0};
  struct __kernel_timespec none = {0, 0};
  int whole = size == 0 && call(SYS_ppoll, &gone, 1, &none, 0) == 0;
  if (whole && !put(1, last, sizeof last)) call(SYS_kill, program, SIGKILL, 0, 0);
  int status = 0;
  call(SYS_wait4, program, &status, 0, 0);
  call(SYS_kill, reader, SIGKILL, 0, 0);
  if (status & 0x7f) end(1);
  if (status == 0 && !whole) put(1, last, sizeof last);
  end(status >> 8 & 0xff);
}

static _Noreturn void carry(int own_is_stream, char **args) {
  enum { idle_seconds = 60 };
  static unsigned char datagram[2 + most], stream[2 * (2 + most)];
  int other;
  start(own_is_stream ? SOCK_SEQPACKET : SOCK_STREAM, args, &other);
  int stream_in = own_is_stream ? 0 : other, stream_out = own_is_stream ? 1 : other;
  int datagram_in = own_is_stream ? other : 0, datagram_out = own_is_stream ? other : 1;
  long filled = 0;
  for (;;) {
    struct pollfd ready[] = {{stream_in, POLLIN, 0}, {datagram_in, POLLIN, 0}};
    struct __kernel_timespec idle = {idle_seconds, 0};
    if (call(SYS_ppoll, ready, 2, &idle, 0) <= 0) end(0);
    if (ready[1].revents) {
      long size = call(SYS_read, datagram_in, datagram + 2, most, 0);
      if (size < 0 || (size == 0 && own_is_stream)) end(size < 0);
      datagram[0] = (unsigned char)(size >> 8), datagram[1] = (unsigned char)size;
      if (!put(stream_out, datagram, size + 2)) end(1);
    }
    if (ready[0].revents) {
      long got = call(SYS_read, stream_in, stream + filled, (long)sizeof stream - filled, 0);
      if (got <= 0) end(got < 0);
      filled += got;
      long at = 0;
      for (long size; filled - at >= 2 && filled - at - 2 >= (size = stream[at] << 8 | stream[at + 1]); at += 2 + size) {
        call(SYS_write, datagram_out, stream + at + 2, size, 0); /* one that nobody takes is lost, as datagrams are */
      }
      for (long i = at; i < filled; i++) stream[i - at] = stream[i];
      filled -= at;
    }
  }
}

__attribute__((used)) static _Noreturn void begin(long *stack) {
  long count = *stack;
  char **given = (char **)(stack + 1);
  environment = given + count + 1;
  if (count < 2) fail(refused, "launch: nothing is named", "", "");
  if (same(given[1], "hold")) hold();
  if (count > 2 && same(given[1], "halves")) halves(given + 2);
  if (count > 2 && same(given[1], "datagrams")) carry(1, given + 2);
  if (count > 2 && same(given[1], "stream")) carry(0, given + 2);
  if (*given[1] != '/') {
    if (count < 4) fail(refused, "enter: IDS, ROOT and PROGRAM are needed", "", "");
    enter(given[1], given[2], given + 3);
  }
  char *args[prefixes + count];
  for (long i = 2; i <= count; i++) args[prefixes + i - 2] = given[i];
  wrapped(given[0], given[1], args + prefixes);
}
