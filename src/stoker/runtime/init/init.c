/* The first process of a sandbox. It starts the program named by its arguments, and

   - passes on what the program prints. gVisor hands a program's write to a pipe of the host on as far as there is room, and then returns
     a short count even to a writer that is ready to wait; much software takes the rest for written. So the program gets pipes of the
     sandbox's own kernel, which has no such fault, and this process, which can count, carries from there to the host's. A host that does
     not read holds the program up, and loses nothing;
   - reaps orphans, and hands signals on to the program;
   - ends as the program did, after all that others left behind was killed and every byte was passed on.

   Made for any image, so it needs no C library: `make init` builds it. */

#include <asm/fcntl.h>
#include <asm/poll.h>
#include <asm/signal.h>
#include <asm/unistd.h>
#include <linux/errno.h>
#include <linux/signalfd.h>
#include <linux/time_types.h>
#include <linux/wait.h>

enum { BUFFER = 1 << 16, ROUNDS = 16 /* then it is another's turn */, CANNOT_EXECUTE = 126, NOT_FOUND = 127, KILLED_BY = 128, LONGEST_PATH = 4096 };
enum { STOPPED_SECONDS = 60, /* how long the program may be stopped, which nobody outside can undo */
       DYING_SECONDS = 10 /* how long the others may take to die */ };

static long syscall(long number, long a, long b, long c, long d, long e) {
#if defined(__x86_64__)
    long result;
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8)
                     : "rcx", "r11", "memory");
    return result;
#elif defined(__aarch64__)
    register long x8 __asm__("x8") = number;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d;
    register long x4 __asm__("x4") = e;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4) : "memory");
    return x0;
#endif
}

#if defined(__x86_64__)
__asm__(".globl _start\n_start: xor %ebp, %ebp\n mov %rsp, %rdi\n and $-16, %rsp\n call start\n");
#elif defined(__aarch64__)
__asm__(".globl _start\n_start: mov x29, #0\n mov x0, sp\n b start\n");
#endif

/* What one of the two pipes carries: `buffer` from `begin` to `end` was read and not yet written. */
struct stream {
    int from, to; /* descriptors; `from` is -1 once there is nobody left who could write */
    int begin, end;
    char buffer[BUFFER];
};

/* What this was built from. */
__attribute__((used)) static const char source[] = "stoker init " SOURCE;

static struct stream streams[2];
static unsigned long all_signals = ~0UL;
static long program; /* its process id */
static int status = -1; /* how it ended, as wait4 says it; -1 while it runs */
static long stopped_since; /* seconds; 0 while it is not stopped */

static long now(void) {
    struct __kernel_timespec time;
    syscall(__NR_clock_gettime, 1 /* CLOCK_MONOTONIC */, (long)&time, 0, 0, 0);
    return time.tv_sec + 1;
}

static void die(int code) {
    for (;;)
        syscall(__NR_exit_group, code, 0, 0, 0, 0);
}

static void say(const char *text) {
    long length = 0;
    while (text[length])
        length++;
    syscall(__NR_write, 2, (long)text, length, 0, 0);
}

static const char *variable(char **environment, const char *name) {
    for (; *environment; environment++) {
        long i = 0;
        while (name[i] && (*environment)[i] == name[i])
            i++;
        if (!name[i] && (*environment)[i] == '=')
            return *environment + i + 1;
    }
    return 0;
}

/* Becomes the program, found as a shell would find it. Returns the error when that cannot be. */
static long execute(char **arguments, char **environment) {
    const char *name = arguments[0], *paths = variable(environment, "PATH");
    long error = -ENOENT;
    for (const char *c = name; *c; c++)
        if (*c == '/')
            return syscall(__NR_execve, (long)name, (long)arguments, (long)environment, 0, 0);
    while (paths && *paths) {
        char path[LONGEST_PATH];
        long length = 0;
        while (*paths && *paths != ':' && length < LONGEST_PATH - 2)
            path[length++] = *paths++;
        if (length)
            path[length++] = '/';
        for (const char *c = name; *c && length < LONGEST_PATH - 1; c++)
            path[length++] = *c;
        path[length] = 0;
        long result = syscall(__NR_execve, (long)path, (long)arguments, (long)environment, 0, 0);
        if (result != -ENOENT && result != -ENOTDIR)
            error = result;
        while (*paths && *paths++ != ':')
            ;
    }
    return error;
}

static void begin(char **arguments, char **environment) {
    int pipes[2][2];
    unsigned long inherited = 0;
    syscall(__NR_rt_sigprocmask, SIG_BLOCK, (long)&all_signals, (long)&inherited, sizeof all_signals, 0);
    for (int i = 0; i < 2; i++)
        if (syscall(__NR_pipe2, (long)pipes[i], O_CLOEXEC, 0, 0, 0) < 0)
            die(CANNOT_EXECUTE);
    program = syscall(__NR_clone, SIGCHLD, 0, 0, 0, 0);
    if (program < 0) {
        say("The program could not be started: no process could be made.\n");
        die(CANNOT_EXECUTE);
    }
    if (program == 0) {
        syscall(__NR_setpgid, 0, 0, 0, 0, 0);
        syscall(__NR_dup3, pipes[0][1], 1, 0, 0, 0);
        syscall(__NR_dup3, pipes[1][1], 2, 0, 0, 0);
        syscall(__NR_rt_sigprocmask, SIG_SETMASK, (long)&inherited, 0, sizeof inherited, 0);
        long error = execute(arguments, environment);
        say(arguments[0]);
        say(error == -ENOENT   ? ": there is no such program in the image.\n"
            : error == -EACCES ? ": this file may not be executed.\n"
                               : ": this file cannot be executed.\n");
        die(error == -ENOENT ? NOT_FOUND : CANNOT_EXECUTE);
    }
    for (int i = 0; i < 2; i++) {
        syscall(__NR_close, pipes[i][1], 0, 0, 0, 0);
        streams[i].from = pipes[i][0];
        streams[i].to = i + 1;
        syscall(__NR_fcntl, streams[i].from, F_SETFL, O_RDONLY | O_NONBLOCK, 0, 0);
        syscall(__NR_fcntl, streams[i].to, F_SETFL, O_WRONLY | O_NONBLOCK, 0, 0);
    }
}

enum state { DRY, /* there is nothing to read */ FULL, /* there is no room to write */ MORE };

/* Reads what there is, writes what there is room for. Never waits, and is done after a while, for there are others. */
static enum state carry(struct stream *stream) {
    for (int round = 0; round < ROUNDS; round++) {
        if (stream->begin == stream->end) {
            if (stream->from < 0)
                return DRY;
            long count = syscall(__NR_read, stream->from, (long)stream->buffer, BUFFER, 0, 0);
            if (count == 0) {
                syscall(__NR_close, stream->from, 0, 0, 0, 0);
                stream->from = -1;
            }
            if (count <= 0)
                return DRY;
            stream->begin = 0;
            stream->end = count;
        }
        long count = syscall(__NR_write, stream->to, (long)stream->buffer + stream->begin, stream->end - stream->begin, 0, 0);
        if (count == -EAGAIN)
            return FULL;
        stream->begin = count < 0 ? stream->end : stream->begin + count; /* nobody is there to read: it is thrown away */
        if (stream->begin < stream->end)
            return FULL;
    }
    return MORE;
}

/* Waits until one of the streams can go on, a signal came, or `milliseconds` (-1: no limit) passed. */
static void wait_for_more(int signals, long milliseconds) {
    struct pollfd events[3] = {{signals, POLLIN, 0}};
    struct __kernel_timespec time = {milliseconds / 1000, milliseconds % 1000 * 1000000};
    for (int i = 0; i < 2; i++) {
        int holds = streams[i].begin < streams[i].end;
        events[i + 1].fd = holds ? streams[i].to : streams[i].from;
        events[i + 1].events = holds ? POLLOUT : POLLIN;
    }
    syscall(__NR_ppoll, (long)events, 3, milliseconds < 0 ? 0 : (long)&time, 0, 0);
}

/* Notes what became of children. Returns whether there are any. */
static int reap(void) {
    for (;;) {
        int state = 0;
        long pid = syscall(__NR_wait4, -1, (long)&state, WNOHANG | WUNTRACED | WCONTINUED, 0, 0);
        if (pid <= 0)
            return pid != -ECHILD;
        if (pid != program)
            continue;
        if ((state & 0xff) == 0x7f)
            stopped_since = now();
        else if (state == 0xffff)
            stopped_since = 0;
        else
            status = state;
    }
}

static void hand_on(int signals) {
    struct signalfd_siginfo info;
    while (syscall(__NR_read, signals, (long)&info, sizeof info, 0, 0) == sizeof info)
        if (info.ssi_signo != SIGCHLD && status < 0)
            syscall(__NR_kill, program, info.ssi_signo, 0, 0, 0);
}

/* Kills everybody else, so that nobody writes any more, and passes on what they had written. */
static void finish(int signals) {
    enum state first, second;
    long deadline = now() + DYING_SECONDS;
    do {
        syscall(__NR_kill, -1, SIGKILL, 0, 0, 0);
        carry(&streams[0]);
        carry(&streams[1]);
        if (!reap())
            break;
        wait_for_more(signals, 10);
        hand_on(signals);
    } while (now() < deadline);
    while ((first = carry(&streams[0])), (second = carry(&streams[1])), first != DRY || second != DRY)
        if (first != MORE && second != MORE)
            wait_for_more(-1, -1);
}

__attribute__((used, noreturn)) void start(long *stack) {
    char **arguments = (char **)(stack + 1), **environment = arguments + *stack + 1;
    if (*stack < 2) {
        say("Name a program.\n");
        die(CANNOT_EXECUTE);
    }
    begin(arguments + 1, environment);
    int signals = syscall(__NR_signalfd4, -1, (long)&all_signals, sizeof all_signals, SFD_CLOEXEC | SFD_NONBLOCK, 0);
    int given_up = 0;
    while (status < 0 && !given_up) {
        carry(&streams[0]);
        carry(&streams[1]);
        wait_for_more(signals, stopped_since ? 1000 : -1);
        hand_on(signals);
        reap();
        given_up = status < 0 && stopped_since && now() - stopped_since > STOPPED_SECONDS;
    }
    finish(signals);
    if (given_up) {
        say("The program was stopped by a signal, and nobody let it go on: the container ends.\n");
        die(KILLED_BY + SIGSTOP);
    }
    die(status & 0x7f ? KILLED_BY + (status & 0x7f) : status >> 8 & 0xff);
    __builtin_unreachable();
}
