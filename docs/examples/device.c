/* usage: sensor | device HOST PORT PATH DEVICE_ID      cc -std=c11 -O2 -o device device.c
 *
 * Sends readings, one JSON object a line on standard input, as events of a device that has little memory and no files.
 * They wait in a ring until a gateway has them; when there is no room the oldest goes. Plain HTTP over POSIX sockets:
 * on a network of its own, or behind the TLS library of the board. */
#define _XOPEN_SOURCE 700
#include <netdb.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum { ROOM = 256, BATCH = 32, READING = 256, EVENT = READING + 256, TIMEOUT_S = 30, LONGEST_PAUSE_MS = 60000 };

/* No clock of a board that was just switched on is right before this. */
static const time_t CLOCK_IS_SET = 1700000000;

static char ring[ROOM][EVENT];
static unsigned first, count; /* of the ring */
static unsigned under_way;    /* events from `first` on that have been sent under `key` */
static unsigned long made, keys;
static uint64_t boot; /* tells the events of this start from those of the last */
static const char *host, *port, *path, *device;

static void forget(unsigned events) {
  first = (first + events) % ROOM;
  count -= events;
  under_way = 0;
}

static void add(const char *reading) {
  if (count == ROOM) {
    fprintf(stderr, "no room: the oldest event is lost\n");
    forget(1); /* what is left of a batch gets a new key, and is known by its ids */
  }
  char when[48] = "";
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (now.tv_sec > CLOCK_IS_SET)
    snprintf(when, sizeof when, ",\"time\":%lld%03ld", (long long)now.tv_sec, now.tv_nsec / 1000000);
  int size = snprintf(ring[(first + count) % ROOM], EVENT,
                      "{\"id\":\"%016llx-%lu\",\"device_id\":\"%s\"%s,\"data\":%s}\n", (unsigned long long)boot, made++,
                      device, when, reading);
  if (size < EVENT) count++;
}

/* Takes readings from standard input for so long, or until there are enough. False when there will be no more. */
static bool listen_for(int ms, unsigned enough) {
  static char line[READING];
  static size_t have;
  static bool ended;
  struct timespec start, now;
  clock_gettime(CLOCK_MONOTONIC, &start);
  for (int left = ms; left > 0 && count < enough;) {
    struct pollfd input = {.fd = ended ? -1 : STDIN_FILENO, .events = POLLIN};
    char c;
    if (poll(&input, 1, left) > 0) {
      if (read(STDIN_FILENO, &c, 1) <= 0) {
        ended = true;
      } else if (c != '\n') {
        line[have] = c;
        have += have < sizeof line - 1;
      } else {
        bool whole = have > 0 && have < sizeof line - 1;
        line[have] = 0;
        have = 0;
        if (whole) add(line);
      }
    }
    clock_gettime(CLOCK_MONOTONIC, &now);
    left = ms - (int)((now.tv_sec - start.tv_sec) * 1000 + (now.tv_nsec - start.tv_nsec) / 1000000);
  }
  return !ended;
}

static int open_connection(void) {
  struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found;
  if (getaddrinfo(host, port, &hints, &found) != 0) return -1;
  int fd = -1;
  for (struct addrinfo *at = found; at && fd < 0; at = at->ai_next) {
    fd = socket(at->ai_family, at->ai_socktype, at->ai_protocol);
    struct timeval patience = {.tv_sec = TIMEOUT_S};
    if (fd < 0) continue;
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    if (connect(fd, at->ai_addr, at->ai_addrlen) != 0) {
      close(fd);
      fd = -1;
    }
  }
  freeaddrinfo(found);
  return fd;
}

static bool put(int fd, const char *bytes, size_t length) {
  while (length > 0) {
    ssize_t sent = write(fd, bytes, length);
    if (sent <= 0) return false;
    bytes += sent;
    length -= (size_t)sent;
  }
  return true;
}

/* The value of a header, as a number; -1 if there is none. */
static long header(const char *head, const char *name) {
  for (const char *line = strstr(head, "\r\n"); line; line = strstr(line + 2, "\r\n"))
    if (strncasecmp(line + 2, name, strlen(name)) == 0) return atol(line + 2 + strlen(name));
  return -1;
}

/* Sends the batch under way. The status of the answer; 0 if there was none, or not all of it. */
static int post(long *retry_after, bool *some_later) {
  static char answer[32768];
  char head[512];
  size_t length = 0, got = 0;
  int fd = open_connection();
  if (fd < 0) return 0;
  for (unsigned n = 0; n < under_way; n++) length += strlen(ring[(first + n) % ROOM]);
  int size = snprintf(head, sizeof head,
                      "POST %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\nContent-Type: application/x-ndjson\r\n"
                      "Idempotency-Key: \"%016llx-%lu\"\r\nContent-Length: %zu\r\n\r\n",
                      path, host, (unsigned long long)boot, keys, length);
  bool sent = put(fd, head, (size_t)size);
  for (unsigned n = 0; sent && n < under_way; n++) {
    const char *event = ring[(first + n) % ROOM];
    sent = put(fd, event, strlen(event));
  }
  ssize_t more;
  while (sent && got < sizeof answer - 1 && (more = read(fd, answer + got, sizeof answer - 1 - got)) > 0)
    got += (size_t)more;
  close(fd);
  answer[got] = 0;
  char *body = strstr(answer, "\r\n\r\n");
  int status;
  if (!body || sscanf(answer, "HTTP/1.1 %d", &status) != 1) return 0;
  body += 4;
  if (header(answer, "content-length:") != (long)strlen(body)) return 0;
  *retry_after = header(answer, "retry-after:");
  *some_later = strstr(body, "\"rate_limited\"") || strstr(body, "\"log_unavailable\"") || strstr(body, ":broken-body");
  return status;
}

int main(int argc, char **argv) {
  if (argc != 5) return 2;
  host = argv[1], port = argv[2], path = argv[3], device = argv[4];
  FILE *chance = fopen("/dev/urandom", "r");
  if (!chance || fread(&boot, sizeof boot, 1, chance) != 1) return 2;
  fclose(chance);
  srandom((unsigned)boot);
  signal(SIGPIPE, SIG_IGN);

  long pause = 500;
  unsigned size = BATCH;
  for (bool more = true; more || count > 0;) {
    if (under_way == 0) {
      if (more) more = listen_for(1000, size);
      if (count == 0) continue;
      under_way = count < size ? count : size;
      keys++;
    }
    long retry_after = -1;
    bool some_later = false;
    int status = post(&retry_after, &some_later);
    if ((status == 202 || status == 400) && !some_later) {
      forget(under_way); /* stored, or never to be stored */
      pause = 500, size = BATCH;
      continue;
    }
    if (status == 413 && under_way > 1) {
      size = under_way / 2, under_way = 0;
      continue;
    }
    if (status == 413) forget(1);
    if (status == 422) under_way = 0;
    if (status == 401 || status == 403 || status == 404 || status == 405 || status == 415) pause = LONGEST_PAUSE_MS;
    /* The same batch under the same key again, later; not with all other devices at the same moment. */
    long wait = retry_after >= 0 ? retry_after * 1000 : pause / 2;
    more = listen_for((int)(wait + random() % (pause / 2 + 1)), ROOM + 1);
    pause = pause * 2 < LONGEST_PAUSE_MS ? pause * 2 : LONGEST_PAUSE_MS;
  }
  return 0;
}
