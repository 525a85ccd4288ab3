// A function that behaves as its first argument says. Static, so that it runs in an empty root.
#include <arpa/inet.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

static void serve(int fd) {
    for (;;) {
        int peer = accept(fd, 0, 0);
        if (peer < 0) _exit(90);
        if (write(peer, "hello\n", 6) != 6) _exit(91);
        close(peer);
    }
}

static void eat(void) {
    for (;;) {
        char *more = malloc(1 << 20);
        if (more) memset(more, 1, 1 << 20);
    }
}

int main(int argc, char **argv) {
    const char *what = argc > 1 ? argv[1] : "serve";
    setvbuf(stdout, 0, _IONBF, 0);
    if (!strcmp(what, "exit")) return 7;
    if (!strcmp(what, "abort")) abort();
    if (!strcmp(what, "realtime")) raise(SIGRTMIN + 3);
    if (!strcmp(what, "eat")) eat();
    if (!strcmp(what, "eat-child")) {
        if (!fork()) eat();
        for (;;) pause();
    }
    if (!strcmp(what, "polite")) {
        // The default action of SIGTERM is enough, except for the first process of a pid namespace.
        serve(3);
    }
    if (!strcmp(what, "deaf")) {
        signal(SIGTERM, SIG_IGN);
        puts("deaf");
        serve(3);
    }
    if (!strcmp(what, "daemon") || !strcmp(what, "orphan")) {
        int ready[2];
        char byte;
        if (pipe(ready)) return 92;
        if (!fork()) {
            setsid();
            if (fork()) _exit(0);
            signal(SIGTERM, SIG_IGN);
            puts("daemon");
            if (write(ready[1], "x", 1) != 1) _exit(93);
            for (;;) pause();
        }
        if (read(ready[0], &byte, 1) != 1) return 94;
        if (!strcmp(what, "orphan")) return 0;
        serve(3);
    }
    if (!strcmp(what, "self-check")) {
        // One whose sandbox does not hold.
        puts("reached read /etc/passwd\npid 1\ndone");
        for (;;) pause();
    }
    if (!strcmp(what, "touch")) {
        int fd = open(argv[2], O_CREAT | O_WRONLY, 0600);
        return fd < 0 ? 1 : 0;
    }
    if (!strcmp(what, "environment")) {
        for (char **e = environ; *e; e++) puts(*e);
        return 0;
    }
    if (!strcmp(what, "cat")) {
        char some[4096];
        ssize_t length;
        while ((length = read(0, some, sizeof some)) > 0)
            if (write(1, some, length) != length) return 96;
        return 0;
    }
    if (!strcmp(what, "bind")) {
        // As the FDKs of Fn do: a socket that all may write to, and a symlink to it.
        struct sockaddr_un at = {.sun_family = AF_UNIX, .sun_path = "/tmp/iofs/own.sock"};
        int fd = socket(AF_UNIX, SOCK_STREAM, 0);
        if (bind(fd, (struct sockaddr *)&at, sizeof at) || listen(fd, 16)) return 97;
        if (chmod(at.sun_path, 0666) || symlink("own.sock", "/tmp/iofs/lsnr.sock")) return 98;
        serve(fd);
    }
    if (!strcmp(what, "port")) {
        struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[2]))};
        at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        if (bind(fd, (struct sockaddr *)&at, sizeof at) || listen(fd, 16)) return 95;
        puts("listening");
        serve(fd);
    }
    if (!strcmp(what, "ask")) {
        // Asks again and again on its port, and says what it is told, or why it is not.
        struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[2]))};
        at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        for (;;) {
            char told[64];
            int fd = socket(AF_INET, SOCK_STREAM, 0);
            if (connect(fd, (struct sockaddr *)&at, sizeof at)) return 96;
            ssize_t length = read(fd, told, sizeof told);
            if (length > 0 && write(1, told, length) != length) return 97;
            close(fd);
        }
    }
    printf("serving as %d\n", (int)getuid());
    serve(3);
}
