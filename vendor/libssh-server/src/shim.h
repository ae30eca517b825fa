/* What the C files of this crate share. */
#ifndef BERTH_SHIM_H
#define BERTH_SHIM_H

#include "config.h"

#include "libssh/bignum.h"
#include "libssh/buffer.h"
#include "libssh/callbacks.h"
#include "libssh/crypto.h"
#include "libssh/dh.h"
#include "libssh/kex.h"
#include "libssh/libssh.h"
#include "libssh/packet.h"
#include "libssh/pki.h"
#include "libssh/pki_priv.h"
#include "libssh/priv.h"
#include "libssh/server.h"
#include "libssh/session.h"
#include "libssh/socket.h"
#include "libssh/ssh2.h"
#include "libssh/string.h"
#include "libssh/wrapper.h"

#include <stdlib.h>
#include <string.h>

#define KEY_TYPES 5

struct berth_session {
    ssh_session session;
    /* Messages of libssh's own, each behind its length as uint32, in the order in which they are to be sent. */
    ssh_buffer outbox;
    /* The host keys as such, and with their certificates: see key_types. Any may be NULL. Borrowed. */
    ssh_key keys[KEY_TYPES];
    ssh_key certified[KEY_TYPES];
};

/* The one that a session of libssh's belongs to. */
struct berth_session *berth_of(ssh_session session);

/* Whether the method that has been chosen is the hybrid one: see hybrid.c. */
int berth_is_hybrid(ssh_session session);

/* Has to be called before libssh looks at a message of a key exchange: shim.c. */
void berth_session_prepare(struct berth_session *self, uint8_t type);

/* The public key, encoded, to be freed with berth_text_free(), or NULL. */
uint8_t *berth_key_blob(ssh_key key, size_t *length);

#endif
