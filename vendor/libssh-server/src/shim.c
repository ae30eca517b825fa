/*
 * What libssh's public interface does not offer: a server's and a client's key exchange (RFC 4253 sections 7 and 8) without
 * packets, sockets, authentication and channels. ffi.rs is the only caller; what a function requires is said here and
 * repeated at its call. packet.c has the messages' way in and out.
 */
#include "shim.h"

#include <openssl/crypto.h>

#define CERTIFICATE_SUFFIX "-cert-v01@openssh.com"

/*
 * Before anything else of OpenSSL: it shall clean nothing up when the process exits, since threads that have just ended
 * their connections still give back what is theirs.
 */
__attribute__((constructor(101))) static void keep_openssl(void)
{
    OPENSSL_init_crypto(OPENSSL_INIT_NO_ATEXIT, NULL);
}

/* What each type's place in berth_session's keys is; key.rs has the same. */
static const enum ssh_keytypes_e key_types[KEY_TYPES] = {SSH_KEYTYPE_ED25519, SSH_KEYTYPE_ECDSA_P256, SSH_KEYTYPE_ECDSA_P384,
                                                         SSH_KEYTYPE_ECDSA_P521, SSH_KEYTYPE_RSA};

/*
 * libssh has one ECDSA key at most, signs with the key that the algorithm's name names, and knows none with a
 * certificate's. So, when the client's part of a key exchange comes, the algorithm is chosen and libssh is told of the plain
 * one, with the certified key or the bare one in its place.
 */
static void choose_host_key(struct berth_session *self)
{
    ssh_session session = self->session;
    const char *method = session->next_crypto->kex_methods[SSH_HOSTKEYS];
    const char *suffix = strstr(method, CERTIFICATE_SUFFIX);
    int length = suffix == NULL ? (int)strlen(method) : (int)(suffix - method);
    ssh_key key = NULL;
    char plain[64];
    snprintf(plain, sizeof plain, "%.*s", length, method);
    session->srv.hostkey = ssh_key_type_from_signature_name(plain);
    session->srv.hostkey_digest = ssh_key_hash_from_name(plain);
    for (int i = 0; i < KEY_TYPES; i++) {
        if (key_types[i] == session->srv.hostkey) {
            key = suffix == NULL ? self->keys[i] : self->certified[i];
        }
    }
    /* It takes the one of the chosen algorithm's kind. */
    session->srv.ed25519_key = session->srv.ecdsa_key = session->srv.rsa_key = key;
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

/* The lists for the next KEXINIT, as berth_session_new() or berth_session_connect() got them: libssh would look for a
 * client's in the user's files, and knows no certificates for a server's. */
static int set_kex(struct berth_session *self)
{
    ssh_session session = self->session;
    struct ssh_kex_struct *kex;
    if (session->next_crypto == NULL) {
        return SSH_ERROR;
    }
    kex = session->client ? &session->next_crypto->client_kex : &session->next_crypto->server_kex;
    if (kex->methods[0] != NULL) {
        return SSH_OK;
    }
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

static void fail(ssh_session session)
{
    session->session_state = SSH_SESSION_STATE_ERROR;
}

/*
 * What there is besides, once, behind the first NEWKEYS: the algorithms of RFC 8308 section 3.1, and what OpenSSH's server
 * says. Of its PROTOCOL: keys that are bound to the server's host key (section 3.1), which are the owner's, and pings
 * (section 1.8). And the owner's, too: requests that lend an authentication agent by their names in
 * draft-ietf-sshm-ssh-agent.
 */
static int send_extensions(ssh_session session)
{
    if (session->connected || (session->extensions & SSH_EXT_NEGOTIATION) == 0) {
        return SSH_OK;
    }
    if (ssh_buffer_pack(session->out_buffer, "bdssssssss", SSH2_MSG_EXT_INFO, 4, "server-sig-algs",
                        session->opts.pubkey_accepted_types, "publickey-hostbound@openssh.com", "0", "ping@openssh.com",
                        "0", "agent-forward", "0") != SSH_OK) {
        return SSH_ERROR;
    }
    return ssh_packet_send(session);
}

/* Both KEXINITs are there: what is common to them is chosen, and the client begins. */
static int begin_exchange(struct berth_session *self)
{
    ssh_session session = self->session;
    if ((session->flags & SSH_SESSION_FLAG_KEXINIT_SENT) == 0 &&
        (set_kex(self) != SSH_OK || ssh_send_kex(session) < 0)) {
        return SSH_ERROR;
    }
    if (ssh_kex_select_methods(session) != SSH_OK) {
        return SSH_ERROR;
    }
    session->session_state = SSH_SESSION_STATE_DH;
    if (berth_is_hybrid(session)) {
        return SSH_OK;
    }
    int begun = session->server ? crypt_set_algorithms_server(session) : dh_handshake(session);
    return begun == SSH_ERROR ? SSH_ERROR : SSH_OK;
}

/* NEWKEYS has come: the peer's next packet is under the new keys. */
static int end_exchange(ssh_session session)
{
    /* The client's code has done so already, once the host key's signature was right. */
    if (session->server &&
        (ssh_packet_set_newkeys(session, SSH_DIRECTION_IN) != SSH_OK || send_extensions(session) != SSH_OK)) {
        return SSH_ERROR;
    }
    session->connected = 1;
    session->session_state = session->flags & SSH_SESSION_FLAG_AUTHENTICATED ? SSH_SESSION_STATE_AUTHENTICATED
                                                                            : SSH_SESSION_STATE_AUTHENTICATING;
    return SSH_OK;
}

/* Called by libssh whenever a key exchange has come further. */
static void step(ssh_session session)
{
    int result = SSH_OK;
    if (session->session_state == SSH_SESSION_STATE_KEXINIT_RECEIVED) {
        result = begin_exchange(berth_of(session));
    } else if (session->session_state == SSH_SESSION_STATE_DH && session->dh_handshake_state == DH_STATE_FINISHED) {
        result = end_exchange(session);
    }
    if (result != SSH_OK) {
        fail(session);
    }
}

/* Before libssh looks at a message of a key exchange: it would look for a client's lists in the user's files. */
void berth_session_prepare(struct berth_session *self, uint8_t type)
{
    if (type == SSH2_MSG_KEXINIT && set_kex(self) != SSH_OK) {
        fail(self->session);
    } else if (self->session->server && type != SSH2_MSG_KEXINIT && type != SSH2_MSG_NEWKEYS) {
        choose_host_key(self);
    }
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
    ssh_buffer_free(self->outbox);
    free(self);
}

/* What both kinds of session have. */
static struct berth_session *create(const char *const *methods)
{
    struct berth_session *self = calloc(1, sizeof *self);
    if (self == NULL) {
        return NULL;
    }
    self->outbox = ssh_buffer_new();
    self->session = ssh_new();
    if (self->session == NULL || self->outbox == NULL) {
        berth_session_free(self);
        return NULL;
    }
    self->session->ssh_message_callback_data = self;
    self->session->ssh_connection_callback = step;
    self->session->alive = 1;
    for (int i = 0; i < SSH_KEX_METHODS; i++) {
        self->session->opts.wanted_methods[i] = strdup(methods[i]);
        if (self->session->opts.wanted_methods[i] == NULL) {
            berth_session_free(self);
            return NULL;
        }
    }
    ssh_set_blocking(self->session, 0);
    return self;
}

/*
 * A server's session. `identification` is its own, whole. `methods` are SSH_KEX_METHODS algorithm lists in the order of
 * enum ssh_kex_types_e; that of host keys names those alone that there is a key for. `keys` and `certified` are KEY_TYPES
 * each; the keys may be NULL, are borrowed, and must outlive the session; libssh only reads them.
 */
struct berth_session *berth_session_new(const char *identification, const char *const *methods,
                                        const char *signature_algorithms, const ssh_key *keys,
                                        const ssh_key *certified)
{
    struct berth_session *self = create(methods);
    ssh_session session;
    if (self == NULL) {
        return NULL;
    }
    session = self->session;
    session->server = 1;
    session->opts.pubkey_accepted_types = strdup(signature_algorithms);
    session->serverbanner = strdup(identification);
    for (size_t i = 0; i < KEY_TYPES; i++) {
        self->keys[i] = keys[i];
        self->certified[i] = certified[i];
    }
    if (session->opts.pubkey_accepted_types == NULL || session->serverbanner == NULL || set_kex(self) != SSH_OK) {
        berth_session_free(self);
        return NULL;
    }
    return self;
}

/* A client's session; otherwise as berth_session_new(). */
struct berth_session *berth_session_connect(const char *identification, const char *const *methods)
{
    struct berth_session *self = create(methods);
    if (self == NULL) {
        return NULL;
    }
    self->session->client = 1;
    self->session->clientbanner = strdup(identification);
    if (self->session->clientbanner == NULL || set_kex(self) != SSH_OK) {
        berth_session_free(self);
        return NULL;
    }
    return self;
}

/* The peer's identification has come, without its line's end: KEXINIT is sent. */
void berth_session_identified(struct berth_session *self, const char *identification)
{
    ssh_session session = self->session;
    char **place = session->server ? &session->clientbanner : &session->serverbanner;
    *place = strdup(identification);
    session->session_state = SSH_SESSION_STATE_INITIAL_KEX;
    if (*place == NULL || ssh_analyze_banner(session, session->server) < 0 || ssh_send_kex(session) < 0) {
        fail(session);
    }
}

/* Begins a key exchange anew. Only where none is under way. */
void berth_session_rekey(struct berth_session *self)
{
    if (set_kex(self) != SSH_OK || ssh_send_rekex(self->session) != SSH_OK) {
        fail(self->session);
    }
}

/* The messages to be sent, each behind its length as uint32, until berth_session_sent(). */
const uint8_t *berth_session_outbox(struct berth_session *self, size_t *length)
{
    *length = ssh_buffer_get_len(self->outbox);
    return ssh_buffer_get(self->outbox);
}

/* They have been taken: the outbox is empty. */
void berth_session_sent(struct berth_session *self)
{
    ssh_buffer_reinit(self->outbox);
}

#define FAILED 0
#define EXCHANGING 1
#define AUTHENTICATING 2
#define AUTHENTICATED 3

/* What messages may come now: in a key exchange, only its own. */
int berth_session_stage(struct berth_session *self)
{
    switch (self->session->session_state) {
    case SSH_SESSION_STATE_ERROR:
    case SSH_SESSION_STATE_DISCONNECTED:
        return FAILED;
    case SSH_SESSION_STATE_AUTHENTICATING:
        return AUTHENTICATING;
    case SSH_SESSION_STATE_AUTHENTICATED:
        return AUTHENTICATED;
    default:
        return EXCHANGING;
    }
}

/* Whether a key exchange is under way: from either KEXINIT until the peer's NEWKEYS. */
int berth_session_exchanging(struct berth_session *self)
{
    return self->session->dh_handshake_state != DH_STATE_FINISHED;
}

/* Whether the peer takes part in strict key exchange (OpenSSH's PROTOCOL, section 1.10). */
int berth_session_strict(struct berth_session *self)
{
    return (self->session->flags & SSH_SESSION_FLAG_KEX_STRICT) != 0;
}

/* The user is logged in: connection messages pass, and the keys may be exchanged anew. */
void berth_session_authenticated(struct berth_session *self)
{
    self->session->session_state = SSH_SESSION_STATE_AUTHENTICATED;
    self->session->flags |= SSH_SESSION_FLAG_AUTHENTICATED;
}

/* What the key exchange whose NEWKEYS was just sent came to; NULL where there is none, or one of its texts. */
const char *berth_session_method(struct berth_session *self, int place)
{
    return self->session->next_crypto == NULL ? NULL : self->session->next_crypto->kex_methods[place];
}

/* Its hash, H. */
const uint8_t *berth_session_hash(struct berth_session *self, size_t *length)
{
    struct ssh_crypto_struct *crypto = self->session->next_crypto;
    *length = crypto == NULL || crypto->secret_hash == NULL ? 0 : crypto->digest_len;
    return crypto == NULL ? NULL : crypto->secret_hash;
}

/* The first one's hash. */
const uint8_t *berth_session_identifier(struct berth_session *self, size_t *length)
{
    struct ssh_crypto_struct *crypto = self->session->next_crypto;
    *length = crypto == NULL || crypto->session_id == NULL ? 0 : crypto->session_id_len;
    return crypto == NULL ? NULL : crypto->session_id;
}

/* Its secret, K, as an mpint with its length; to be wiped and freed with berth_secret_free(), or NULL. */
uint8_t *berth_session_secret(struct berth_session *self, size_t *length)
{
    struct ssh_crypto_struct *crypto = self->session->next_crypto;
    ssh_string secret = crypto == NULL || crypto->shared_secret == NULL ? NULL : ssh_make_bignum_string(crypto->shared_secret);
    *length = secret == NULL ? 0 : sizeof(uint32_t) + ssh_string_len(secret);
    return (uint8_t *)secret;
}

void berth_secret_free(uint8_t *secret, size_t length)
{
    OPENSSL_cleanse(secret, length);
    free(secret);
}

/* The server's host key, encoded, to be freed with berth_text_free(), or NULL before the first key exchange. */
uint8_t *berth_session_host_key(struct berth_session *self, size_t *length)
{
    struct ssh_crypto_struct *crypto = self->session->current_crypto;
    return crypto == NULL || crypto->server_pubkey == NULL ? NULL : berth_key_blob(crypto->server_pubkey, length);
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
    renew(&self->session->out_buffer);
    renew(&self->session->in_buffer);
    if (ssh_buffer_get_len(self->outbox) == 0) {
        renew(&self->outbox);
    }
    /* The thread's random generators and error queue. They are made anew when there is something to encrypt. */
    OPENSSL_thread_stop();
}

const char *berth_session_error(struct berth_session *self)
{
    return ssh_get_error(self->session);
}
