//! Sections of ContainerSSH's that berth has not, or not yet: all keys are known, and fine where they ask for nothing.

use super::section::Section;

const AUDIT: &str = "audit logs are not available yet; remove it, or set it to false";
const KERBEROS: &str = "Kerberos is not available: berth has no GSSAPI";
const OAUTH2: &str =
    "OAuth2 is not available yet; users can be asked for passwords, without a key in the configuration";

pub(super) fn audit<T: 'static>() -> Section<T> {
    let s3 = Section::new()
        .inert(&["local", "accessKey", "secretKey", "bucket", "region", "endpoint", "cacert", "acl", "pathStyleAccess"])
        .inert(&["uploadPartSize", "parallelUploads"])
        .absent("metadata", Section::new().inert(&["ip", "username"]));
    let intercept = Section::new().inert(&["stdin", "stdout", "stderr", "passwords", "forwarding"]);
    Section::new()
        .refused(&["enable"], AUDIT)
        .inert(&["format", "storage"])
        .absent("file", Section::new().inert(&["directory"]))
        .absent("s3", s3)
        .absent("intercept", intercept)
}

/// The section `kerberos` of a method.
pub(super) fn kerberos<T: 'static>() -> Section<T> {
    let keys = ["keytab", "acceptor", "enforceUsername", "credentialCachePath", "configPath", "clockSkew"];
    Section::new().absent("kerberos", Section::new().inert(&keys))
}

pub(super) fn gssapi<T: 'static>() -> Section<T> {
    kerberos().refused(&["method"], KERBEROS)
}

pub(super) fn keyboard_interactive<T: 'static>() -> Section<T> {
    let github = http_client().inert(&[
        "apiurl",
        "enforceUsername",
        "requireOrgMembership",
        "require2FA",
        "extraScopes",
        "enforceScopes",
    ]);
    let oidc = http_client().inert(&[
        "deviceFlow",
        "authorizationCodeFlow",
        "usernameField",
        "redirectURI",
        "extraScopes",
        "enforceScopes",
    ]);
    let generic = Section::new().inert(&["authorizeEndpointURL", "redirectURI"]).absent("tokenEndpoint", http_client());
    let oauth2 = Section::new()
        .inert(&["clientId", "clientSecret", "provider", "qrCodeClients", "deviceFlowClients", "authTimeout"])
        .absent("redirect", http_server().inert(&["webroot"]))
        .absent("github", github)
        .absent("oidc", oidc)
        .absent("generic", generic);
    Section::new().refused(&["method"], OAUTH2).absent("oauth2", oauth2)
}

pub(super) fn http_client<T: 'static>() -> Section<T> {
    Section::new().inert(&[
        "url",
        "allowRedirects",
        "timeout",
        "cacert",
        "cert",
        "key",
        "tlsVersion",
        "curves",
        "cipher",
    ])
}

fn http_server<T: 'static>() -> Section<T> {
    Section::new().inert(&["listen", "key", "cert", "clientcacert", "tlsVersion", "curves", "cipher"])
}
