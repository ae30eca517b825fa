/*
 * In place of libssh's packet.c, which is not linked: the linker takes these functions first (see build.rs).
 *
 * Packets are the Rust side's: it opens and seals them, and knows when which key is used. What is left here is the two
 * ends of that as libssh's key exchange sees them. What it sends is kept as messages, for the Rust side to fetch; and
 * what it is sent are the messages of a key exchange, for whose handlers libssh has a list.
 */
#include "shim.h"

/* Where the caller of berth_session_exchange() has to end the connection, or to answer, or to go on by itself. */
#define NOT_ALLOWED 1
#define NOT_HANDLED 2
#define HYBRID 3

struct berth_session *berth_of(ssh_session session)
{
    return session->ssh_message_callback_data;
}

/* Takes the message in the session's output buffer. After NEWKEYS, the other messages are for the next keys. */
int ssh_packet_send(ssh_session session)
{
    ssh_buffer message = session->out_buffer;
    ssh_buffer outbox = berth_of(session)->outbox;
    uint32_t length = ssh_buffer_get_len(message);
    const uint8_t *bytes = ssh_buffer_get(message);
    int result = SSH_ERROR;
    if (length > 0 && ssh_buffer_add_u32(outbox, htonl(length)) == SSH_OK &&
        ssh_buffer_add_data(outbox, bytes, length) == SSH_OK) {
        result = bytes[0] == SSH2_MSG_NEWKEYS ? ssh_packet_set_newkeys(session, SSH_DIRECTION_OUT) : SSH_OK;
    }
    ssh_buffer_reinit(message);
    return result;
}

int ssh_packet_send_newkeys(ssh_session session)
{
    return ssh_buffer_add_u8(session->out_buffer, SSH2_MSG_NEWKEYS) == SSH_OK ? ssh_packet_send(session) : SSH_ERROR;
}

int ssh_packet_send_unimplemented(ssh_session session, uint32_t sequence)
{
    int packed = ssh_buffer_pack(session->out_buffer, "bd", SSH2_MSG_UNIMPLEMENTED, sequence);
    return packed == SSH_OK ? ssh_packet_send(session) : SSH_ERROR;
}

/* What has been agreed on, for those who look into it; it becomes current once both directions use it. */
struct ssh_crypto_struct *ssh_packet_get_current_crypto(ssh_session session, enum ssh_crypto_direction_e direction)
{
    (void)direction;
    return session == NULL ? NULL : session->current_crypto;
}

/* One direction uses the new keys. The Rust side has them from the secret; libssh keeps what the exchange was about. */
int ssh_packet_set_newkeys(ssh_session session, enum ssh_crypto_direction_e direction)
{
    struct ssh_crypto_struct *done = session->next_crypto;
    struct ssh_crypto_struct *next;
    if (done == NULL) {
        return SSH_ERROR;
    }
    /* The server's code has made it already, and the hybrid exchange's. */
    if (session->client && direction == SSH_DIRECTION_OUT && done->secret_hash == NULL &&
        ssh_make_sessionid(session) != SSH_OK) {
        return SSH_ERROR;
    }
    done->used |= direction;
    if (done->used != SSH_DIRECTION_BOTH) {
        return SSH_OK;
    }
    next = crypto_new();
    if (next != NULL) {
        next->session_id = malloc(done->session_id_len);
    }
    if (next == NULL || next->session_id == NULL) {
        crypto_free(next);
        ssh_set_error_oom(session);
        return SSH_ERROR;
    }
    memcpy(next->session_id, done->session_id, done->session_id_len);
    next->session_id_len = done->session_id_len;
    crypto_free(session->current_crypto);
    session->current_crypto = done;
    session->next_crypto = next;
    /* Nobody needs it any more, and it must not be found by who reads memory. */
    bignum_safe_free(done->shared_secret);
    return SSH_OK;
}

/* libssh's socket is never used. */
void ssh_packet_register_socket_callback(ssh_session session, ssh_socket socket)
{
    (void)session;
    (void)socket;
}

void ssh_packet_set_callbacks(ssh_session session, ssh_packet_callbacks callbacks)
{
    if (session->packet_callbacks == NULL) {
        session->packet_callbacks = ssh_list_new();
    }
    if (session->packet_callbacks == NULL || ssh_list_append(session->packet_callbacks, callbacks) != SSH_OK) {
        ssh_set_error_oom(session);
        session->session_state = SSH_SESSION_STATE_ERROR;
    }
}

void ssh_packet_remove_callbacks(ssh_session session, ssh_packet_callbacks callbacks)
{
    struct ssh_iterator *found = ssh_list_find(session->packet_callbacks, callbacks);
    if (found != NULL) {
        ssh_list_remove(session->packet_callbacks, found);
    }
}

/* The handlers that are there in each key exchange are called by name. */
void ssh_packet_set_default_callbacks(ssh_session session)
{
    (void)session;
}

/* Whether a message of a key exchange may come now. */
static int allowed(ssh_session session, uint8_t type)
{
    enum ssh_session_state_e state = session->session_state;
    enum ssh_dh_state_e exchange = session->dh_handshake_state;
    switch (type) {
    case SSH2_MSG_KEXINIT:
        return state == SSH_SESSION_STATE_INITIAL_KEX ||
               (state == SSH_SESSION_STATE_AUTHENTICATED &&
                (exchange == DH_STATE_FINISHED || exchange == DH_STATE_INIT_SENT));
    case SSH2_MSG_NEWKEYS:
        return state == SSH_SESSION_STATE_DH && exchange == DH_STATE_NEWKEYS_SENT;
    case SSH2_MSG_KEXDH_INIT:
    case SSH2_MSG_KEX_DH_GEX_REQUEST:
        return session->server && state == SSH_SESSION_STATE_DH && exchange == DH_STATE_INIT;
    case SSH2_MSG_KEX_DH_GEX_INIT:
        return session->server && state == SSH_SESSION_STATE_DH && exchange == DH_STATE_GROUP_SENT;
    case SSH2_MSG_KEXDH_REPLY:
        return session->client && state == SSH_SESSION_STATE_DH &&
               (exchange == DH_STATE_INIT_SENT || exchange == DH_STATE_REQUEST_SENT);
    case SSH2_MSG_KEX_DH_GEX_REPLY:
        return session->client && state == SSH_SESSION_STATE_DH && exchange == DH_STATE_INIT_SENT;
    default:
        return 0;
    }
}

/* The handlers that are there for the method that was chosen. A handler may remove its own place in the list. */
static int handle(ssh_session session, uint8_t type, ssh_buffer message)
{
    struct ssh_iterator *place = ssh_list_get_iterator(session->packet_callbacks);
    if (berth_is_hybrid(session)) {
        return type == SSH2_MSG_KEX_ECDH_INIT || type == SSH2_MSG_KEX_ECDH_REPLY ? HYBRID : NOT_HANDLED;
    }
    while (place != NULL) {
        ssh_packet_callbacks callbacks = ssh_iterator_value(ssh_packet_callbacks, place);
        place = place->next;
        if (type < callbacks->start || type - callbacks->start >= callbacks->n_callbacks) {
            continue;
        }
        ssh_packet_callback handler = callbacks->callbacks[type - callbacks->start];
        if (handler != NULL && handler(session, type, message, callbacks->user) == SSH_PACKET_USED) {
            return SSH_OK;
        }
    }
    return NOT_HANDLED;
}

/*
 * Takes a message of a key exchange (RFC 4253 section 7): its number, and what stands behind it. Gives SSH_OK, NOT_ALLOWED
 * or NOT_HANDLED; whether it was good, the session's state tells. Or HYBRID: the message may come now, and the rest of the
 * hybrid method is the caller's; after KEXINIT, to begin it.
 */
int berth_session_exchange(struct berth_session *self, uint8_t type, const uint8_t *body, uint32_t length)
{
    ssh_session session = self->session;
    ssh_buffer message = session->in_buffer;
    if (session->server && session->first_kex_follows_guess_wrong && type != SSH2_MSG_KEXINIT) {
        /* Whatever the client has sent by its guess is for another method than the one that was chosen. */
        session->first_kex_follows_guess_wrong = 0;
        return SSH_OK;
    }
    if (!allowed(session, type)) {
        return NOT_ALLOWED;
    }
    ssh_buffer_reinit(message);
    if (ssh_buffer_add_data(message, body, length) != SSH_OK) {
        ssh_set_error_oom(session);
        session->session_state = SSH_SESSION_STATE_ERROR;
        return SSH_OK;
    }
    berth_session_prepare(self, type);
    switch (type) {
    case SSH2_MSG_KEXINIT:
        ssh_packet_kexinit(session, type, message, session);
        if (session->client && session->session_state == SSH_SESSION_STATE_DH && berth_is_hybrid(session)) {
            return HYBRID;
        }
        return SSH_OK;
    case SSH2_MSG_NEWKEYS:
        ssh_packet_newkeys(session, type, message, session);
        return SSH_OK;
    case SSH2_MSG_KEXDH_INIT:
        if (ssh_packet_kexdh_init(session, type, message, session) == SSH_PACKET_USED) {
            return SSH_OK;
        }
        return handle(session, type, message);
    default:
        return handle(session, type, message);
    }
}
