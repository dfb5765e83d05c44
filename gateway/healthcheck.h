/* `bitnet-gateway healthcheck`: a probe for containers without a shell. */
#ifndef GATEWAY_HEALTHCHECK_H
#define GATEWAY_HEALTHCHECK_H

/* GETs the URL (http://HOST:PORT/PATH, no TLS; the admin port's /health/live where none is given); 0 when it answers 200
 * within three seconds, else 1. argv[0] is "healthcheck". */
int healthcheck_main(int argc, char **argv);

#endif
