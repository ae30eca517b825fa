/*
 * What libssh's public interface does not offer to a server: messages raw instead of parsed, and input and output as
 * bytes instead of a poll loop of its own. lib.rs is the only caller; what a function requires is said here and
 * repeated at its call.
 *
 * libssh's poll layer is never entered. Input: the caller reads its socket and hands the bytes to
 * berth_session_receive(), which calls libssh's own socket data callback. Output: libssh appends packets to its
 * socket's buffer, and tries to write only where that socket is marked as writable; it is marked in
 * berth_session_flush() alone, when the caller has seen POLLOUT.
 */
#include "config.h"

#include "libssh/buffer.h"
#include "libssh/callbacks.h"
#include "libssh/crypto.h"
#include "libssh/dh.h"
#include "libssh/kex.h"
#include "libssh/libssh.h"
#include "libssh/packet.h"
#include "libssh/pki.h"
#include "libssh/priv.h"
#include "libssh/server.h"
#include "libssh/session.h"
#include "libssh/socket.h"
#include "libssh/ssh2.h"
#include "libssh/string.h"

#include <stdlib.h>
#include <string.h>

#define FIRST_CONNECTION_MESSAGE 80
#define LAST_CONNECTION_MESSAGE 100

typedef void (*berth_message_callback)(void *user, const uint8_t *message, size_t length);

struct berth_session {
    ssh_session session;
    berth_message_callback callback;
    void *user;
    struct ssh_packet_callbacks_struct service;
    struct ssh_packet_callbacks_struct authentication;
    struct ssh_packet_callbacks_struct information;
    struct ssh_packet_callbacks_struct connection;
    ssh_packet_callback handlers[LAST_CONNECTION_MESSAGE - FIRST_CONNECTION_MESSAGE + 1];
};

/* Every message that berth handles itself comes through here. The buffer stands behind the message number. */
static int on_message(ssh_session session, uint8_t type, ssh_buffer packet, void *user)
{
    struct berth_session *self = user;
    const uint8_t *body = ssh_buffer_get(packet);
    (void)session;
    (void)type;
    self->callback(self->user, body - 1, (size_t)ssh_buffer_get_len(packet) + 1);
    return SSH_PACKET_USED;
}

static void handle(struct berth_session *self, struct ssh_packet_callbacks_struct *callbacks, uint8_t first, uint8_t count)
{
    callbacks->start = first;
    callbacks->n_callbacks = count;
    callbacks->callbacks = self->handlers;
    callbacks->user = self;
    /* The first handler that uses a message wins, and libssh appends its own ones later, in the key exchange. */
    ssh_packet_set_callbacks(self->session, callbacks);
}

/* To be called before anything else; further calls do nothing. libssh's own constructor is not linked into a static program. */
int berth_init(void)
{
    return ssh_init();
}

void berth_session_free(struct berth_session *self)
{
    if (self == NULL) {
        return;
    }
    if (self->session != NULL) {
        /* Borrowed from the caller: see berth_session_new(). */
        self->session->srv.ed25519_key = NULL;
        self->session->srv.ecdsa_key = NULL;
        self->session->srv.rsa_key = NULL;
        ssh_free(self->session);
    }
    free(self);
}

/*
 * A server session on `fd`, a connected non-blocking socket, which is the session's to close from here on, on failure
 * too. `methods` are SSH_KEX_METHODS algorithm lists in the order of enum ssh_kex_types_e. The keys may be NULL, are borrowed, and must
 * outlive the session; libssh only reads them. `callback` is called within berth_session_receive() only.
 */
struct berth_session *berth_session_new(socket_t fd, const char *banner, const char *const *methods,
                                        const char *signature_algorithms, ssh_key ed25519, ssh_key ecdsa, ssh_key rsa,
                                        berth_message_callback callback, void *user)
{
    struct berth_session *self = calloc(1, sizeof *self);
    ssh_session session = self == NULL ? NULL : ssh_new();
    if (session == NULL) {
        free(self);
        CLOSE_SOCKET(fd);
        return NULL;
    }
    self->session = session;
    self->callback = callback;
    self->user = user;
    for (size_t i = 0; i < sizeof self->handlers / sizeof self->handlers[0]; i++) {
        self->handlers[i] = on_message;
    }
    session->server = 1;
    for (int i = 0; i < SSH_KEX_METHODS; i++) {
        session->opts.wanted_methods[i] = strdup(methods[i]);
        if (session->opts.wanted_methods[i] == NULL) {
            goto error;
        }
    }
    session->opts.pubkey_accepted_types = strdup(signature_algorithms);
    session->server_opts.custombanner = strdup(banner);
    if (session->opts.pubkey_accepted_types == NULL || session->server_opts.custombanner == NULL) {
        goto error;
    }
    session->srv.ed25519_key = ed25519;
    session->srv.ecdsa_key = ecdsa;
    session->srv.rsa_key = rsa;
    ssh_set_blocking(session, 0);
    handle(self, &self->service, SSH2_MSG_SERVICE_REQUEST, 1);
    handle(self, &self->authentication, SSH2_MSG_USERAUTH_REQUEST, 1);
    handle(self, &self->information, SSH2_MSG_USERAUTH_INFO_RESPONSE, 1);
    handle(self, &self->connection, FIRST_CONNECTION_MESSAGE, sizeof self->handlers / sizeof self->handlers[0]);
    /*
     * Buffers the identification string, prepares the key exchange, and ends with one poll, which would read from the
     * socket into a buffer that we cannot reach. So the socket is given to libssh only after it: poll() passes over the
     * descriptor -1.
     */
    if (ssh_handle_key_exchange(session) == SSH_ERROR) {
        goto error;
    }
    ssh_socket_set_fd(session->socket, fd);
    ssh_socket_set_connected(session->socket, NULL);
    /* Writing to no socket left an error text. */
    ssh_reset_error(session);
    return self;
error:
    berth_session_free(self);
    CLOSE_SOCKET(fd);
    return NULL;
}

static int state(struct berth_session *self)
{
    switch (self->session->session_state) {
    case SSH_SESSION_STATE_ERROR:
    case SSH_SESSION_STATE_DISCONNECTED:
        return SSH_ERROR;
    default:
        return ssh_socket_is_open(self->session->socket) ? SSH_OK : SSH_ERROR;
    }
}

/* Hands over bytes from the socket; gives how many of them were used. The rest must be given again, with more
 * behind it. libssh calls itself once for each packet in `data`: the caller bounds `length`. */
size_t berth_session_receive(struct berth_session *self, uint8_t *data, size_t length)
{
    struct ssh_socket_callbacks_struct *callbacks = &self->session->socket_callbacks;
    return callbacks->data(data, length, callbacks->userdata);
}

int berth_session_state(struct berth_session *self)
{
    return state(self);
}

/* How many bytes wait to be written. */
size_t berth_session_pending(struct berth_session *self)
{
    return ssh_socket_buffered_write_bytes(self->session->socket);
}

/* Writes as much as the socket takes. Only where it is writable (POLLOUT): libssh holds EAGAIN for an error. */
int berth_session_flush(struct berth_session *self)
{
    if (ssh_socket_buffered_write_bytes(self->session->socket) > 0) {
        ssh_socket_set_write_wontblock(self->session->socket);
        ssh_socket_nonblocking_flush(self->session->socket);
    }
    return state(self);
}

/* Sends one message, its number first. Between a KEXINIT and NEWKEYS it is queued. */
int berth_session_send(struct berth_session *self, const uint8_t *message, uint32_t length)
{
    /* Room for the packet's length and padding length, which libssh prepends: saves it moving the payload. */
    static const uint8_t header[5];
    ssh_buffer buffer = self->session->out_buffer;
    if (ssh_buffer_add_data(buffer, header, sizeof header) != SSH_OK ||
        ssh_buffer_add_data(buffer, message, length) != SSH_OK ||
        ssh_buffer_pass_bytes(buffer, sizeof header) != sizeof header) {
        ssh_buffer_reinit(buffer);
        return SSH_ERROR;
    }
    return ssh_packet_send(self->session) == SSH_ERROR ? SSH_ERROR : SSH_OK;
}

/* Sends SSH_MSG_USERAUTH_SUCCESS; connection messages pass from here on. */
int berth_session_authenticated(struct berth_session *self)
{
    return ssh_auth_reply_success(self->session, 0) == SSH_ERROR ? SSH_ERROR : SSH_OK;
}

/* Lets the next SSH_MSG_USERAUTH_INFO_RESPONSE through. */
void berth_session_expect_information(struct berth_session *self)
{
    self->session->auth.state = SSH_AUTH_STATE_INFO;
}

/* Whether a key exchange is under way. */
int berth_session_exchanging(struct berth_session *self)
{
    return self->session->dh_handshake_state != DH_STATE_FINISHED;
}

/* Whether packets are encrypted by now. */
int berth_session_encrypted(struct berth_session *self)
{
    return self->session->current_crypto != NULL;
}

/* The session identifier (the first exchange hash), or NULL before the first key exchange. */
const uint8_t *berth_session_identifier(struct berth_session *self, size_t *length)
{
    struct ssh_crypto_struct *crypto = self->session->current_crypto;
    if (crypto == NULL || crypto->session_id == NULL) {
        return NULL;
    }
    *length = crypto->session_id_len;
    return crypto->session_id;
}

const char *berth_session_error(struct berth_session *self)
{
    return ssh_get_error(self->session);
}

/* The client's identification string, or NULL. */
const char *berth_session_client_banner(struct berth_session *self)
{
    return ssh_get_clientbanner(self->session);
}

static ssh_string string_from(const uint8_t *data, size_t length)
{
    ssh_string string = ssh_string_new(length);
    if (string != NULL && length > 0) {
        ssh_string_fill(string, data, length);
    }
    return string;
}

/* Whether `signature` over `data` was made with the key in `blob`. SSH_OK, or SSH_ERROR for anything else. */
int berth_session_verify(struct berth_session *self, const uint8_t *blob, size_t blob_length, const uint8_t *signature,
                         size_t signature_length, const uint8_t *data, size_t length)
{
    ssh_string blob_string = string_from(blob, blob_length);
    ssh_string signature_string = string_from(signature, signature_length);
    ssh_key key = NULL;
    ssh_signature imported = NULL;
    int rc = SSH_ERROR;
    if (blob_string != NULL && signature_string != NULL && ssh_pki_import_pubkey_blob(blob_string, &key) == SSH_OK &&
        ssh_pki_import_signature_blob(signature_string, key, &imported) == SSH_OK) {
        rc = ssh_pki_signature_verify(self->session, imported, key, data, length);
    }
    ssh_signature_free(imported);
    ssh_key_free(key);
    SSH_STRING_FREE(blob_string);
    SSH_STRING_FREE(signature_string);
    return rc == SSH_OK ? SSH_OK : SSH_ERROR;
}

/* A private key in OpenSSH's or PEM format, without a passphrase; NULL where it is none. */
ssh_key berth_key_import(const char *text)
{
    ssh_key key = NULL;
    return ssh_pki_import_privkey_base64(text, NULL, NULL, NULL, &key) == SSH_OK ? key : NULL;
}

/* A new key: 0 ed25519, 1 ECDSA on P-256, 2 RSA with 3072 bits. */
ssh_key berth_key_generate(int kind)
{
    static const enum ssh_keytypes_e types[] = {SSH_KEYTYPE_ED25519, SSH_KEYTYPE_ECDSA, SSH_KEYTYPE_RSA};
    static const int parameters[] = {0, 256, 3072};
    ssh_key key = NULL;
    return ssh_pki_generate(types[kind], parameters[kind], &key) == SSH_OK ? key : NULL;
}

/* The private key in OpenSSH's format, to be freed with berth_text_free(), or NULL. */
char *berth_key_export(ssh_key key)
{
    char *text = NULL;
    return ssh_pki_export_privkey_base64_format(key, NULL, NULL, NULL, &text, SSH_FILE_FORMAT_OPENSSH) == SSH_OK ? text : NULL;
}

/* The public key's base64 blob, to be freed with berth_text_free(), or NULL. */
char *berth_key_public(ssh_key key)
{
    char *text = NULL;
    return ssh_pki_export_pubkey_base64(key, &text) == SSH_OK ? text : NULL;
}

/* 0 ed25519, 1 ECDSA, 2 RSA, -1 anything else. */
int berth_key_kind(ssh_key key)
{
    switch (ssh_key_type(key)) {
    case SSH_KEYTYPE_ED25519:
        return 0;
    case SSH_KEYTYPE_ECDSA_P256:
    case SSH_KEYTYPE_ECDSA_P384:
    case SSH_KEYTYPE_ECDSA_P521:
        return 1;
    case SSH_KEYTYPE_RSA:
        return 2;
    default:
        return -1;
    }
}

/* The name of the key's type, static. */
const char *berth_key_name(ssh_key key)
{
    return key->type_c;
}

void berth_key_free(ssh_key key)
{
    ssh_key_free(key);
}

void berth_text_free(char *text)
{
    ssh_string_free_char(text);
}
