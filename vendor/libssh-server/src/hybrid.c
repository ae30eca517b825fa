/*
 * The hybrid key exchange: messages 30 and 31 of a method that libssh does not know. The Rust side (hybrid.rs and
 * negotiation/hybrid.rs) has the method's keys, secret and hash. Here is what that takes of libssh's: the first part of
 * what is hashed, the host key, its signature, and the messages' way out.
 */
#include "shim.h"

/* libssh's own methods have numbers from one on. To be asked once a method has been chosen. */
int berth_is_hybrid(ssh_session session)
{
    return session->next_crypto->kex_type == 0;
}

static int sent(ssh_session session, int packed)
{
    if (packed != SSH_OK) {
        ssh_buffer_reinit(session->out_buffer);
        ssh_set_error_oom(session);
        return SSH_ERROR;
    }
    return ssh_packet_send(session);
}

/* A client's first message, with its keys. */
int berth_session_begin(struct berth_session *self, const uint8_t *keys, size_t length)
{
    ssh_session session = self->session;
    session->dh_handshake_state = DH_STATE_INIT_SENT;
    return sent(session, ssh_buffer_pack(session->out_buffer, "bdP", SSH2_MSG_KEX_ECDH_INIT, (uint32_t)length, length,
                                         keys));
}

/* The server's own host key, as the one of this exchange. */
static int choose_own_key(ssh_session session, ssh_key *private, enum ssh_digest_e *digest)
{
    ssh_key_free(session->next_crypto->server_pubkey);
    session->next_crypto->server_pubkey = NULL;
    return ssh_get_key_params(session, private, digest);
}

/* The host key that a client has been told. */
static int take_key(ssh_session session, const uint8_t *key, size_t length)
{
    ssh_string blob = ssh_string_new(length);
    int result = SSH_ERROR;
    if (blob != NULL && ssh_string_fill(blob, key, length) == SSH_OK) {
        result = ssh_dh_import_next_pubkey_blob(session, blob);
    }
    SSH_STRING_FREE(blob);
    return result;
}

/*
 * The first part of what is hashed: both identifications, both KEXINITs, and the host key (RFC 4253 section 8), which a
 * client gives here. To be freed with berth_text_free(), or NULL.
 */
uint8_t *berth_session_transcript(struct berth_session *self, const uint8_t *key, size_t key_length, size_t *length)
{
    ssh_session session = self->session;
    ssh_buffer client = session->client ? session->out_hashbuf : session->in_hashbuf;
    ssh_buffer server = session->client ? session->in_hashbuf : session->out_hashbuf;
    ssh_buffer buffer = ssh_buffer_new();
    ssh_key private = NULL;
    enum ssh_digest_e digest;
    ssh_string blob = NULL;
    uint8_t *transcript = NULL;
    int known = session->client ? take_key(session, key, key_length) : choose_own_key(session, &private, &digest);
    *length = 0;
    if (buffer != NULL && client != NULL && server != NULL && known == SSH_OK &&
        ssh_dh_get_next_server_publickey_blob(session, &blob) == SSH_OK &&
        ssh_buffer_pack(buffer, "ssdPdPS", session->clientbanner, session->serverbanner, ssh_buffer_get_len(client),
                        (size_t)ssh_buffer_get_len(client), ssh_buffer_get(client), ssh_buffer_get_len(server),
                        (size_t)ssh_buffer_get_len(server), ssh_buffer_get(server), blob) == SSH_OK) {
        transcript = malloc(ssh_buffer_get_len(buffer));
    }
    if (transcript != NULL) {
        *length = ssh_buffer_get_len(buffer);
        memcpy(transcript, ssh_buffer_get(buffer), *length);
    }
    SSH_STRING_FREE(blob);
    SSH_BUFFER_FREE(buffer);
    SSH_BUFFER_FREE(session->in_hashbuf);
    SSH_BUFFER_FREE(session->out_hashbuf);
    return transcript;
}

/* The exchange hash, which is the first one's session identifier, too. */
static int know_hash(ssh_session session, const uint8_t *hash, size_t length)
{
    struct ssh_crypto_struct *crypto = session->next_crypto;
    crypto->secret_hash = malloc(length);
    if (crypto->session_id == NULL) {
        crypto->session_id = malloc(length);
        crypto->session_id_len = length;
        if (crypto->session_id != NULL) {
            memcpy(crypto->session_id, hash, length);
        }
    }
    if (crypto->secret_hash == NULL || crypto->session_id == NULL) {
        ssh_set_error_oom(session);
        return SSH_ERROR;
    }
    memcpy(crypto->secret_hash, hash, length);
    crypto->digest_len = length;
    return SSH_OK;
}

/* The server's answer, with its keys and its signature of the hash, and NEWKEYS. */
int berth_session_answer(struct berth_session *self, const uint8_t *hash, size_t hash_length, const uint8_t *keys,
                         size_t length)
{
    ssh_session session = self->session;
    ssh_key private = NULL;
    enum ssh_digest_e digest = SSH_DIGEST_AUTO;
    ssh_string blob = NULL;
    ssh_string signature = NULL;
    int result = SSH_ERROR;
    if (know_hash(session, hash, hash_length) == SSH_OK && choose_own_key(session, &private, &digest) == SSH_OK &&
        ssh_dh_get_next_server_publickey_blob(session, &blob) == SSH_OK) {
        signature = ssh_srv_pki_do_sign_sessionid(session, private, digest);
    }
    if (signature != NULL) {
        result = sent(session, ssh_buffer_pack(session->out_buffer, "bSdPS", SSH2_MSG_KEX_ECDH_REPLY, blob,
                                               (uint32_t)length, length, keys, signature));
    }
    SSH_STRING_FREE(blob);
    SSH_STRING_FREE(signature);
    if (result == SSH_OK) {
        session->dh_handshake_state = DH_STATE_NEWKEYS_SENT;
        result = ssh_packet_send_newkeys(session);
    }
    return result;
}

/* The client's NEWKEYS. libssh looks at the server's signature of the hash when the server's NEWKEYS comes. */
int berth_session_conclude(struct berth_session *self, const uint8_t *hash, size_t hash_length,
                           const uint8_t *signature, size_t length)
{
    ssh_session session = self->session;
    ssh_string kept = ssh_string_new(length);
    if (kept == NULL || ssh_string_fill(kept, signature, length) != SSH_OK ||
        know_hash(session, hash, hash_length) != SSH_OK) {
        SSH_STRING_FREE(kept);
        return SSH_ERROR;
    }
    session->next_crypto->dh_server_signature = kept;
    session->dh_handshake_state = DH_STATE_NEWKEYS_SENT;
    return ssh_packet_send_newkeys(session);
}
