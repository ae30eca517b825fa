/* Host keys, by libssh's code for them. key.rs is the only caller; what a function requires is said here. */
#include "shim.h"

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
