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
#include "libssh/bytearray.h"
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
#include "libssh/wrapper.h"

#include <arpa/inet.h>
#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_CONNECTION_MESSAGE 80
#define LAST_CONNECTION_MESSAGE 100
/* A packet's length and padding length, before its payload. */
#define PACKET_HEADER 5

/*
 * Before anything else of OpenSSL: it shall clean nothing up when the process exits, since threads that have just ended
 * their connections still give back what is theirs.
 */
__attribute__((constructor(101))) static void keep_openssl(void)
{
    OPENSSL_init_crypto(OPENSSL_INIT_NO_ATEXIT, NULL);
}

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
    /* Where a packet is put together, and how much fits; NULL while there was nothing to send. */
    uint8_t *packet;
    size_t capacity;
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
    free(self->packet);
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

/* Every so many packets one goes libssh's own way, which looks whether it is time for new keys. Its limits are counted in
 * 2^31 packets: a few more do not matter. */
#define PACKETS_PER_LOOK 64

/* The outgoing keys, where a message may be sealed here: not in a key exchange, and not when libssh has to look. */
static struct ssh_crypto_struct *sealing_crypto(struct berth_session *self)
{
    struct ssh_crypto_struct *crypto = ssh_packet_get_current_crypto(self->session, SSH_DIRECTION_OUT);
    if (crypto == NULL || self->session->dh_handshake_state != DH_STATE_FINISHED || crypto->do_compress_out ||
        crypto->out_cipher->packets % PACKETS_PER_LOOK == 0) {
        return NULL;
    }
    return crypto;
}

/* Encrypts `length` bytes of packet in place and puts the MAC behind them. RFC 4253 section 6, RFC 5647 section 7.3,
 * and the PROTOCOL file of OpenSSH for encrypt-then-MAC and chacha20-poly1305. */
static int encrypt_packet(ssh_session session, struct ssh_crypto_struct *crypto, uint8_t *packet, size_t length)
{
    struct ssh_cipher_struct *cipher = crypto->out_cipher;
    uint8_t *mac = packet + length;
    size_t mac_length = hmac_digest_len(crypto->out_hmac);
    size_t clear = crypto->out_hmac_etm ? sizeof(uint32_t) : 0;
    uint32_t sequence = htonl(session->send_seq);
    HMACCTX hmac;
    if (cipher->aead_encrypt != NULL) {
        cipher->aead_encrypt(cipher, packet, packet, length, mac, session->send_seq);
        return SSH_OK;
    }
    hmac = hmac_init(crypto->encryptMAC, mac_length, crypto->out_hmac);
    if (hmac == NULL) {
        return SSH_ERROR;
    }
    if (clear > 0) {
        cipher->encrypt(cipher, packet + clear, packet + clear, length - clear);
    }
    /* The last call frees the context: each of them has to be made. */
    int good = hmac_update(hmac, &sequence, sizeof sequence) == 1;
    good &= hmac_update(hmac, packet, length) == 1;
    good &= hmac_final(hmac, mac, &mac_length) == 1;
    if (clear == 0) {
        cipher->encrypt(cipher, packet, packet, length);
    }
    return good ? SSH_OK : SSH_ERROR;
}

/* As libssh's packet_send2(), but in one buffer that is kept: that one allocates, clears and copies each packet. */
static int seal(struct berth_session *self, struct ssh_crypto_struct *crypto, const uint8_t *message, uint32_t length)
{
    ssh_session session = self->session;
    struct ssh_cipher_struct *cipher = crypto->out_cipher;
    size_t blocksize = cipher->blocksize;
    /* What of the packet is not part of the encrypted blocks: its length, with encrypt-then-MAC and AEAD. */
    size_t apart = crypto->out_hmac_etm ? sizeof(uint32_t) : cipher->lenfield_blocksize;
    size_t padding = blocksize - (PACKET_HEADER + length - apart) % blocksize;
    if (padding < 4) {
        padding += blocksize;
    }
    size_t packet_length = PACKET_HEADER + length + padding;
    size_t whole = packet_length + hmac_digest_len(crypto->out_hmac);
    if (self->capacity < whole) {
        uint8_t *packet = realloc(self->packet, whole);
        if (packet == NULL) {
            ssh_set_error_oom(session);
            return SSH_ERROR;
        }
        self->packet = packet;
        self->capacity = whole;
    }
    uint8_t *packet = self->packet;
    PUSH_BE_U32(packet, 0, (uint32_t)(packet_length - sizeof(uint32_t)));
    PUSH_BE_U8(packet, 4, (uint8_t)padding);
    memcpy(packet + PACKET_HEADER, message, length);
    if (!ssh_get_random(packet + PACKET_HEADER + length, (int)padding, 0) ||
        encrypt_packet(session, crypto, packet, packet_length) != SSH_OK) {
        ssh_set_error(session, SSH_FATAL, "a packet could not be encrypted");
        return SSH_ERROR;
    }
    if (ssh_socket_write(session->socket, packet, (uint32_t)whole) == SSH_ERROR) {
        return SSH_ERROR;
    }
    session->send_seq++;
    cipher->packets++;
    cipher->blocks += length / blocksize;
    return SSH_OK;
}

/* Sends one message, its number first. Between a KEXINIT and NEWKEYS it is queued. */
int berth_session_send(struct berth_session *self, const uint8_t *message, uint32_t length)
{
    static const uint8_t header[PACKET_HEADER];
    ssh_buffer buffer = self->session->out_buffer;
    struct ssh_crypto_struct *crypto = sealing_crypto(self);
    if (crypto != NULL) {
        return seal(self, crypto, message, length);
    }
    /* Room for the header, which libssh prepends: saves it moving the payload. */
    if (ssh_buffer_add_data(buffer, header, sizeof header) != SSH_OK ||
        ssh_buffer_add_data(buffer, message, length) != SSH_OK ||
        ssh_buffer_pass_bytes(buffer, sizeof header) != sizeof header) {
        ssh_buffer_reinit(buffer);
        return SSH_ERROR;
    }
    return ssh_packet_send(self->session) == SSH_ERROR ? SSH_ERROR : SSH_OK;
}

/* A new buffer in place of one whose content nobody needs: they keep the largest size that they ever had. */
static void renew(ssh_buffer *buffer)
{
    ssh_buffer fresh = ssh_buffer_new();
    if (fresh != NULL) {
        ssh_buffer_free(*buffer);
        *buffer = fresh;
    }
}

/* Gives back what is not needed by a session on which nothing moves. To be called by the thread that uses it. */
void berth_session_shrink(struct berth_session *self)
{
    free(self->packet);
    self->packet = NULL;
    self->capacity = 0;
    if (ssh_buffer_get_len(self->session->out_buffer) == 0) {
        renew(&self->session->out_buffer);
    }
    /* Between two packets it still holds the last one, which was dealt with. */
    if (self->session->packet_state == PACKET_STATE_INIT) {
        renew(&self->session->in_buffer);
    }
    /* The thread's random generators and error queue. They are made anew when there is something to encrypt. */
    OPENSSL_thread_stop();
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
