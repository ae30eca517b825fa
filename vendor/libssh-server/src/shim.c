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
#include "libssh/pki_priv.h"
#include "libssh/priv.h"
#include "libssh/server.h"
#include "libssh/session.h"
#include "libssh/socket.h"
#include "libssh/ssh2.h"
#include "libssh/string.h"
#include "libssh/wrapper.h"

#include <arpa/inet.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_CONNECTION_MESSAGE 80
#define LAST_CONNECTION_MESSAGE 100
/* A packet's length and padding length, before its payload. */
#define PACKET_HEADER 5
/* RFC 4253 section 4.2. */
#define MAX_IDENTIFICATION 255
/* The messages that a client's part of a key exchange may begin with. */
#define FIRST_EXCHANGE_MESSAGE 30
#define LAST_EXCHANGE_MESSAGE 34
#define KEY_KINDS 3
#define CERTIFICATE_SUFFIX "-cert-v01@openssh.com"

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
    struct ssh_packet_callbacks_struct kexinit;
    ssh_packet_callback kexinit_handler;
    struct ssh_packet_callbacks_struct exchange;
    struct ssh_packet_callbacks_struct success;
    ssh_packet_callback success_handler;
    ssh_packet_callback handlers[LAST_CONNECTION_MESSAGE - FIRST_CONNECTION_MESSAGE + 1];
    /* The host keys as such, and with their certificates: ed25519, ECDSA, RSA. Any may be NULL. Borrowed. */
    ssh_packet_callback exchange_handlers[LAST_EXCHANGE_MESSAGE - FIRST_EXCHANGE_MESSAGE + 1];
    ssh_key keys[KEY_KINDS];
    ssh_key certified[KEY_KINDS];
    /* The algorithms that the certificates are for, with a comma behind each; NULL where there are none. */
    char *certificates;
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

/*
 * Host certificates. libssh signs with the key that the algorithm's name names, and knows none with a certificate's.
 * So, when the client's part of a key exchange comes, the algorithm is chosen and libssh is told of the plain one, with the
 * certified key or the bare one in its place.
 */
static int on_exchange(ssh_session session, uint8_t type, ssh_buffer packet, void *user)
{
    struct berth_session *self = user;
    const char *method = session->next_crypto->kex_methods[SSH_HOSTKEYS];
    const char *suffix = method == NULL ? NULL : strstr(method, CERTIFICATE_SUFFIX);
    const ssh_key *keys = suffix == NULL ? self->keys : self->certified;
    char plain[64];
    (void)type;
    (void)packet;
    session->srv.ed25519_key = keys[0];
    session->srv.ecdsa_key = keys[1];
    session->srv.rsa_key = keys[2];
    if (suffix != NULL) {
        snprintf(plain, sizeof plain, "%.*s", (int)(suffix - method), method);
        session->srv.hostkey = ssh_key_type_from_signature_name(plain);
        session->srv.hostkey_digest = ssh_key_hash_from_name(plain);
    }
    return SSH_PACKET_NOT_USED;
}

/* What server.c calls in place of ssh_pki_export_privkey_to_pubkey(): see build.rs. The public half, in its certificate if
 * it has one. */
#undef ssh_pki_export_privkey_to_pubkey
int ssh_pki_export_privkey_to_pubkey(const ssh_key private, ssh_key *public);
int berth_host_public_key(const ssh_key private, ssh_key *public)
{
    if (ssh_pki_export_privkey_to_pubkey(private, public) != SSH_OK) {
        return SSH_ERROR;
    }
    if (private->cert != NULL && ssh_pki_copy_cert_to_privkey(private, *public) != SSH_OK) {
        ssh_key_free(*public);
        return SSH_ERROR;
    }
    return SSH_OK;
}

/* The content of a string, which is freed. To be freed with berth_text_free(), or NULL. */
static uint8_t *take_string(ssh_string string, size_t *length)
{
    uint8_t *copy;
    *length = ssh_string_len(string);
    copy = malloc(*length);
    if (copy != NULL) {
        memcpy(copy, ssh_string_data(string), *length);
    }
    SSH_STRING_FREE(string);
    return copy;
}

/* The public key, encoded, to be freed with berth_text_free(), or NULL. */
uint8_t *berth_key_blob(ssh_key key, size_t *length)
{
    ssh_string blob = NULL;
    return ssh_pki_export_pubkey_blob(key, &blob) == SSH_OK ? take_string(blob, length) : NULL;
}

/* Puts the certificates' algorithms into what the next KEXINIT will offer, before the keys' own. A client takes another key
 * than it saw first for an attack, so they have to be in later ones, too. */
static int offer_certificates(struct berth_session *self)
{
    ssh_session session = self->session;
    char **offer;
    char *both;
    size_t length;
    if (self->certificates == NULL || session->next_crypto == NULL) {
        return SSH_OK;
    }
    offer = &session->next_crypto->server_kex.methods[SSH_HOSTKEYS];
    if (server_set_kex(session) != SSH_OK || *offer == NULL) {
        return SSH_ERROR;
    }
    if (strstr(*offer, CERTIFICATE_SUFFIX) != NULL) {
        return SSH_OK;
    }
    length = strlen(self->certificates) + strlen(*offer) + 1;
    both = malloc(length);
    if (both == NULL) {
        return SSH_ERROR;
    }
    snprintf(both, length, "%s%s", self->certificates, *offer);
    free(*offer);
    *offer = both;
    return SSH_OK;
}

/* The client asks for a key exchange, which we have not prepared where it comes right behind the last one's end. */
static int on_kexinit(ssh_session session, uint8_t type, ssh_buffer packet, void *user)
{
    (void)type;
    (void)packet;
    if (offer_certificates(user) != SSH_OK) {
        ssh_set_error_oom(session);
        session->session_state = SSH_SESSION_STATE_ERROR;
    }
    return SSH_PACKET_NOT_USED;
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

/* Whether a packet of this thread's could not be encrypted: libssh's function type has no result. */
static __thread int encryption_failed;

/* AES-GCM (RFC 5647) in place of libssh's, which takes a packet whatever its tag is. `packet` is a length, which is
 * authenticated alone, the ciphertext behind it, and the tag. Nothing is to be read from `out` where this fails. */
static int open_gcm(struct ssh_cipher_struct *cipher, void *packet, uint8_t *out, size_t length, uint64_t sequence)
{
    uint8_t *in = packet;
    uint8_t *tag = in + cipher->lenfield_blocksize + length;
    uint8_t unused[1];
    int written = 0;
    int rest = 0;
    (void)sequence;
    if (EVP_CIPHER_CTX_ctrl(cipher->ctx, EVP_CTRL_GCM_IV_GEN, sizeof unused, unused) == 1 &&
        EVP_CIPHER_CTX_ctrl(cipher->ctx, EVP_CTRL_GCM_SET_TAG, (int)cipher->tag_size, tag) == 1 &&
        EVP_DecryptUpdate(cipher->ctx, NULL, &written, in, (int)cipher->lenfield_blocksize) == 1 &&
        EVP_DecryptUpdate(cipher->ctx, out, &written, in + cipher->lenfield_blocksize, (int)length) == 1 &&
        EVP_DecryptFinal_ex(cipher->ctx, out + written, &rest) == 1 && (size_t)written + (size_t)rest == length) {
        return SSH_OK;
    }
    return SSH_ERROR;
}

/* The other direction. Where it fails, what would have been sent is wiped: so it is never sent in the clear. */
static void seal_gcm(struct ssh_cipher_struct *cipher, void *in, void *out, size_t length, uint8_t *tag, uint64_t sequence)
{
    size_t clear = cipher->lenfield_blocksize;
    uint8_t *from = in;
    uint8_t *to = out;
    uint8_t unused[1];
    int written = 0;
    int rest = 0;
    (void)sequence;
    if (EVP_CIPHER_CTX_ctrl(cipher->ctx, EVP_CTRL_GCM_IV_GEN, sizeof unused, unused) == 1 &&
        EVP_EncryptUpdate(cipher->ctx, NULL, &written, from, (int)clear) == 1 &&
        EVP_EncryptUpdate(cipher->ctx, to + clear, &written, from + clear, (int)(length - clear)) == 1 &&
        EVP_EncryptFinal_ex(cipher->ctx, to + clear + written, &rest) == 1 &&
        (size_t)written + (size_t)rest == length - clear &&
        EVP_CIPHER_CTX_ctrl(cipher->ctx, EVP_CTRL_GCM_GET_TAG, (int)cipher->tag_size, tag) == 1) {
        memmove(to, from, clear);
        return;
    }
    memset(to, 0, length);
    memset(tag, 0, cipher->tag_size);
    encryption_failed = 1;
}

/* To be called before anything else; further calls do nothing. libssh's own constructor is not linked into a static program. */
int berth_init(void)
{
    int result = ssh_init();
    for (struct ssh_cipher_struct *cipher = ssh_get_ciphertab(); cipher->name != NULL; cipher++) {
        if (cipher->ciphertype == SSH_AEAD_AES128_GCM || cipher->ciphertype == SSH_AEAD_AES256_GCM) {
            cipher->aead_decrypt = open_gcm;
            cipher->aead_encrypt = seal_gcm;
        }
    }
    return result;
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
    free(self->certificates);
    free(self);
}

/* What both kinds of session have. Takes `fd`, which is closed on failure. */
static struct berth_session *create(socket_t fd, const char *const *methods, berth_message_callback callback, void *user)
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
    for (int i = 0; i < SSH_KEX_METHODS; i++) {
        session->opts.wanted_methods[i] = strdup(methods[i]);
        if (session->opts.wanted_methods[i] == NULL) {
            berth_session_free(self);
            CLOSE_SOCKET(fd);
            return NULL;
        }
    }
    ssh_set_blocking(session, 0);
    return self;
}

/*
 * A server session on `fd`, a connected non-blocking socket, which is the session's to close from here on, on failure
 * too. `methods` are SSH_KEX_METHODS algorithm lists in the order of enum ssh_kex_types_e. `keys` and `certified` are
 * KEY_KINDS each; the keys may be NULL, are borrowed, and must outlive the session; libssh only reads them.
 * `certificates` is what berth_session's field of that name is, or empty. `callback` is called within
 * berth_session_receive() only.
 */
struct berth_session *berth_session_new(socket_t fd, const char *banner, const char *const *methods,
                                        const char *signature_algorithms, const char *certificates,
                                        const ssh_key *keys, const ssh_key *certified,
                                        berth_message_callback callback, void *user)
{
    struct berth_session *self = create(fd, methods, callback, user);
    ssh_session session;
    if (self == NULL) {
        return NULL;
    }
    session = self->session;
    session->server = 1;
    session->opts.pubkey_accepted_types = strdup(signature_algorithms);
    session->server_opts.custombanner = strdup(banner);
    if (session->opts.pubkey_accepted_types == NULL || session->server_opts.custombanner == NULL) {
        goto error;
    }
    for (size_t i = 0; i < KEY_KINDS; i++) {
        self->keys[i] = keys[i];
        self->certified[i] = certified[i] == NULL ? keys[i] : certified[i];
    }
    session->srv.ed25519_key = keys[0];
    session->srv.ecdsa_key = keys[1];
    session->srv.rsa_key = keys[2];
    if (certificates[0] != '\0') {
        self->certificates = strdup(certificates);
        if (self->certificates == NULL) {
            goto error;
        }
        for (size_t i = 0; i <= LAST_EXCHANGE_MESSAGE - FIRST_EXCHANGE_MESSAGE; i++) {
            self->exchange_handlers[i] = on_exchange;
        }
        self->kexinit_handler = on_kexinit;
        handle(self, &self->kexinit, SSH2_MSG_KEXINIT, 1);
        self->kexinit.callbacks = &self->kexinit_handler;
        handle(self, &self->exchange, FIRST_EXCHANGE_MESSAGE, LAST_EXCHANGE_MESSAGE - FIRST_EXCHANGE_MESSAGE + 1);
        self->exchange.callbacks = self->exchange_handlers;
    }
    handle(self, &self->service, SSH2_MSG_SERVICE_REQUEST, 1);
    handle(self, &self->authentication, SSH2_MSG_USERAUTH_REQUEST, 1);
    handle(self, &self->information, SSH2_MSG_USERAUTH_INFO_RESPONSE, 1);
    handle(self, &self->connection, FIRST_CONNECTION_MESSAGE, sizeof self->handlers / sizeof self->handlers[0]);
    /*
     * Buffers the identification string, prepares the key exchange, and ends with one poll, which would read from the
     * socket into a buffer that we cannot reach. So the socket is given to libssh only after it: poll() passes over the
     * descriptor -1.
     */
    if (ssh_handle_key_exchange(session) == SSH_ERROR || offer_certificates(self) != SSH_OK) {
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

/* A client's lists for the next KEXINIT: libssh would look into the user's files for them. */
static int set_client_kex(ssh_session session)
{
    struct ssh_kex_struct *kex;
    if (session->next_crypto == NULL || session->next_crypto->client_kex.methods[0] != NULL) {
        return SSH_OK;
    }
    kex = &session->next_crypto->client_kex;
    if (!ssh_get_random(kex->cookie, sizeof kex->cookie, 0)) {
        return SSH_ERROR;
    }
    for (int i = 0; i < SSH_KEX_METHODS; i++) {
        kex->methods[i] = strdup(session->opts.wanted_methods[i]);
        if (kex->methods[i] == NULL) {
            return SSH_ERROR;
        }
    }
    return session->flags & SSH_SESSION_FLAG_AUTHENTICATED ? SSH_OK : ssh_kex_append_extensions(session, kex);
}

/* Called by libssh whenever a client's transport has come further: what client.c does there, but for its poll loop. */
static void client_step(ssh_session session)
{
    int good = 1;
    switch (session->session_state) {
    case SSH_SESSION_STATE_KEXINIT_RECEIVED:
        if ((session->flags & SSH_SESSION_FLAG_KEXINIT_SENT) == 0) {
            good = set_client_kex(session) == SSH_OK && ssh_send_kex(session) == 0;
        }
        if (good && ssh_kex_select_methods(session) == SSH_OK) {
            session->session_state = SSH_SESSION_STATE_DH;
            good = dh_handshake(session) != SSH_ERROR;
        } else {
            good = 0;
        }
        break;
    case SSH_SESSION_STATE_DH:
        if (session->dh_handshake_state == DH_STATE_FINISHED) {
            session->connected = 1;
            session->session_state = session->flags & SSH_SESSION_FLAG_AUTHENTICATED ? SSH_SESSION_STATE_AUTHENTICATED
                                                                                    : SSH_SESSION_STATE_AUTHENTICATING;
        }
        break;
    case SSH_SESSION_STATE_ERROR:
        good = 0;
        break;
    default:
        break;
    }
    if (!good) {
        session->session_state = SSH_SESSION_STATE_ERROR;
    }
}

/* Takes the server's identification, and the lines that may stand before it (RFC 4253 section 4.2). */
static size_t receive_identification(const void *data, size_t length, void *user)
{
    ssh_session session = user;
    const char *text = data;
    const char *end = memchr(text, '\n', length);
    size_t line = end == NULL ? length : (size_t)(end - text);
    if (line > MAX_IDENTIFICATION) {
        ssh_set_error(session, SSH_FATAL, "not an SSH server");
        session->session_state = SSH_SESSION_STATE_ERROR;
        return 0;
    }
    if (end == NULL) {
        return 0;
    }
    if (line < 4 || memcmp(text, "SSH-", 4) != 0) {
        return line + 1;
    }
    session->serverbanner = strndup(text, text[line - 1] == '\r' ? line - 1 : line);
    if (session->serverbanner == NULL || ssh_analyze_banner(session, 0) < 0) {
        session->session_state = SSH_SESSION_STATE_ERROR;
        return 0;
    }
    ssh_packet_register_socket_callback(session, session->socket);
    ssh_packet_set_default_callbacks(session);
    session->session_state = SSH_SESSION_STATE_INITIAL_KEX;
    if (set_client_kex(session) != SSH_OK || ssh_send_kex(session) < 0) {
        session->session_state = SSH_SESSION_STATE_ERROR;
    }
    return line + 1;
}

/* Success is for libssh, too: messages pass from then on. */
static int on_success(ssh_session session, uint8_t type, ssh_buffer packet, void *user)
{
    on_message(session, type, packet, user);
    return SSH_PACKET_NOT_USED;
}

/* A client session on `fd`; otherwise as berth_session_new(). `banner` is the whole identification. */
struct berth_session *berth_session_connect(socket_t fd, const char *banner, const char *const *methods,
                                            berth_message_callback callback, void *user)
{
    struct berth_session *self = create(fd, methods, callback, user);
    ssh_session session;
    if (self == NULL) {
        return NULL;
    }
    session = self->session;
    session->client = 1;
    session->alive = 1;
    session->ssh_connection_callback = client_step;
    session->socket_callbacks.data = receive_identification;
    session->socket_callbacks.exception = ssh_socket_exception_callback;
    session->socket_callbacks.userdata = session;
    ssh_socket_set_callbacks(session->socket, &session->socket_callbacks);
    session->session_state = SSH_SESSION_STATE_SOCKET_CONNECTED;
    session->clientbanner = strdup(banner);
    if (session->clientbanner == NULL) {
        berth_session_free(self);
        CLOSE_SOCKET(fd);
        return NULL;
    }
    self->success_handler = on_success;
    handle(self, &self->service, SSH2_MSG_SERVICE_ACCEPT, 1);
    handle(self, &self->authentication, SSH2_MSG_USERAUTH_FAILURE, 1);
    handle(self, &self->success, SSH2_MSG_USERAUTH_SUCCESS, 1);
    self->success.callbacks = &self->success_handler;
    handle(self, &self->information, SSH2_MSG_USERAUTH_INFO_REQUEST, 1);
    handle(self, &self->connection, FIRST_CONNECTION_MESSAGE, sizeof self->handlers / sizeof self->handlers[0]);
    ssh_socket_set_fd(session->socket, fd);
    ssh_socket_set_connected(session->socket, NULL);
    ssh_socket_write(session->socket, banner, (uint32_t)strlen(banner));
    ssh_socket_write(session->socket, "\r\n", 2);
    return self;
}

/* Lets the answers to a client's service and authentication requests through. */
void berth_session_expect_answers(struct berth_session *self)
{
    self->session->auth.service_state = SSH_AUTH_SERVICE_SENT;
    /* The one state in which all of them are. */
    self->session->auth.state = SSH_AUTH_STATE_KBDINT_SENT;
}

/* The server's host key, encoded, to be freed with berth_text_free(), or NULL before the first key exchange. */
uint8_t *berth_session_host_key(struct berth_session *self, size_t *length)
{
    struct ssh_crypto_struct *crypto = self->session->current_crypto;
    return crypto == NULL || crypto->server_pubkey == NULL ? NULL : berth_key_blob(crypto->server_pubkey, length);
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
    size_t used = callbacks->data(data, length, callbacks->userdata);
    /* Where a key exchange has ended, the next one is prepared: it may be we who begin it. */
    if ((self->session->flags & SSH_SESSION_FLAG_AUTHENTICATED) != 0 &&
        (self->session->client ? set_client_kex(self->session) : offer_certificates(self)) != SSH_OK) {
        ssh_set_error_oom(self->session);
        self->session->session_state = SSH_SESSION_STATE_ERROR;
    }
    return used;
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
        encryption_failed = 0;
        cipher->aead_encrypt(cipher, packet, packet, length, mac, session->send_seq);
        return encryption_failed ? SSH_ERROR : SSH_OK;
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

/* A copy of a private key with a certificate for it, which is the base64 and the name of its type; NULL where that is none,
 * or for another key. */
ssh_key berth_key_certify(ssh_key key, const char *name, const char *base64)
{
    ssh_key certificate = NULL;
    ssh_key certified = NULL;
    if (ssh_pki_import_cert_base64(base64, ssh_key_type_from_name(name), &certificate) == SSH_OK) {
        certified = ssh_key_dup(key);
        if (certified != NULL && ssh_pki_copy_cert_to_privkey(certificate, certified) != SSH_OK) {
            ssh_key_free(certified);
            certified = NULL;
        }
        ssh_key_free(certificate);
    }
    return certified;
}

/* A signature, encoded with its algorithm's name, to be freed with berth_text_free(), or NULL. */
uint8_t *berth_key_sign(ssh_key key, const char *algorithm, const uint8_t *data, size_t data_length, size_t *length)
{
    ssh_string blob = NULL;
    ssh_signature signature = pki_do_sign(key, data, data_length, ssh_key_hash_from_name(algorithm));
    int result = signature == NULL ? SSH_ERROR : ssh_pki_export_signature_blob(signature, &blob);
    ssh_signature_free(signature);
    return result == SSH_OK ? take_string(blob, length) : NULL;
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
