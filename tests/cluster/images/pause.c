// The pause container of a pod: keeps the pod's namespaces alive, reaps orphans, exits on SIGINT or SIGTERM.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static void terminate(int signal) { _exit(0); }
static void reap(int signal) { while (waitpid(-1, 0, WNOHANG) > 0) {} }

int main(void) {
  signal(SIGINT, terminate);
  signal(SIGTERM, terminate);
  signal(SIGCHLD, reap);
  for (;;) pause();
}
