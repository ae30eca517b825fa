//! `auth.keyboardInteractive`: logins by a browser, with OAuth 2.0.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::dangers;
use super::kind::{address, any_number_of, choice, duration, is_line, parsed, switch, text};
use super::reader::Reader;
use super::section::Section;
use super::webhook::{HttpServer, SHORTEST, Server, parse_url, server};
use super::yaml::Node;

/// Logins by a browser, resolved.
#[derive(Clone, Debug)]
pub struct OAuth2 {
    /// `clientId`
    pub client_id: String,
    /// `clientSecret`
    pub client_secret: ClientSecret,
    /// `provider`, with its section.
    pub provider: Provider,
    /// `authTimeout`: for a whole login.
    pub time: Duration,
    /// `redirect.listen`: where browsers come back to, if a provider sends them.
    pub redirect: Option<SocketAddr>,
    /// `redirectURI`: where the provider sends them; none for the one that the provider knows.
    pub redirect_uri: Option<String>,
    /// `extraScopes`
    pub scopes: Vec<String>,
    /// `enforceScopes`: whether these have to be granted.
    pub enforce_scopes: bool,
    /// `enforceUsername`: whether the provider's name must be the one that the client gave.
    pub enforce_username: bool,
}

/// A secret that `Debug` does not show.
#[derive(Clone, Default)]
pub struct ClientSecret(pub String);

impl fmt::Debug for ClientSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientSecret")
    }
}

/// Who says who a user is.
#[derive(Clone, Debug)]
pub enum Provider {
    /// `github`: its pages, and its API.
    GitHub {
        /// `url`
        web: HttpServer,
        /// `apiurl`
        api: Box<HttpServer>,
        /// `deviceFlow`: whether a device code is tried first.
        by_device: bool,
        /// `requireOrgMembership`
        organization: Option<String>,
        /// `require2FA`
        require_2fa: bool,
    },
    /// `oidc`: OpenID Connect.
    Oidc {
        /// `url`
        issuer: HttpServer,
        /// `deviceFlow`
        by_device: bool,
        /// `authorizationCodeFlow`
        by_code: bool,
        /// `usernameField`
        name_field: String,
    },
    /// `generic`: OAuth 2.0 alone, which does not say who a user is.
    Generic {
        /// `authorizeEndpointURL`
        authorize: String,
        /// `tokenEndpoint`
        token: HttpServer,
    },
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Name {
    GitHub,
    Oidc,
    Generic,
}

/// `auth.keyboardInteractive` as typed.
#[derive(Clone, Debug)]
pub(super) struct Typed {
    is_used: bool,
    client_id: Option<String>,
    client_secret: ClientSecret,
    provider: Option<Name>,
    time: Duration,
    listen: SocketAddr,
    github: Keys,
    oidc: Keys,
    generic: Keys,
}

/// A provider's section as typed; each has some of these.
#[derive(Clone, Debug)]
struct Keys {
    server: Server,
    api: String,
    authorize: Option<String>,
    enforce_username: Option<bool>,
    organization: Option<String>,
    require_2fa: bool,
    by_device: bool,
    by_code: bool,
    name_field: String,
    redirect_uri: Option<String>,
    scopes: Vec<String>,
    enforce_scopes: bool,
}

impl Default for Keys {
    fn default() -> Self {
        Keys {
            server: Server::default(),
            api: "https://api.github.com".to_owned(),
            authorize: None,
            enforce_username: None,
            organization: None,
            require_2fa: false,
            by_device: false,
            by_code: false,
            name_field: "sub".to_owned(),
            redirect_uri: None,
            scopes: Vec::new(),
            enforce_scopes: false,
        }
    }
}

impl Default for Typed {
    fn default() -> Self {
        let server = Server::at("https://github.com", Duration::from_secs(10));
        Typed {
            is_used: false,
            client_id: None,
            client_secret: ClientSecret::default(),
            provider: None,
            time: Duration::from_secs(120),
            listen: (Ipv4Addr::LOCALHOST, 8080).into(),
            github: Keys { server, enforce_username: Some(true), by_device: true, ..Keys::default() },
            oidc: Keys::default(),
            generic: Keys::default(),
        }
    }
}

fn is_scope(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"\\".contains(&byte))
}

/// A URL that a browser is sent to.
fn browsers_url(text: &str) -> Result<String, &'static str> {
    let good = ["http://", "https://"].iter().any(|start| text.starts_with(start));
    let good = good && !text.contains('#') && text.bytes().all(|byte| byte.is_ascii_graphic());
    if good { Ok(text.to_owned()) } else { Err("must be a URL such as https://login.example/authorize") }
}

pub(super) fn section() -> Section<Typed> {
    const METHODS: &[(&str, bool)] = &[("oauth2", true)];
    const PROVIDERS: &[(&str, Option<Name>)] =
        &[("github", Some(Name::GitHub)), ("oidc", Some(Name::Oidc)), ("generic", Some(Name::Generic))];
    const TLS: &str = "browsers are answered without TLS: remove it, and put a proxy in front";
    let word = |what| text(what, is_line);
    let scopes = || {
        Section::new()
            .key("extraScopes", |keys: &mut Keys| &mut keys.scopes, any_number_of(text("a scope", is_scope)))
            .key("enforceScopes", |keys| &mut keys.enforce_scopes, switch())
            .key("enforceUsername", |keys| &mut keys.enforce_username, switch().optional())
    };
    let redirect_uri = || {
        Section::new().key(
            "redirectURI",
            |keys: &mut Keys| &mut keys.redirect_uri,
            parsed("a URL", browsers_url).optional(),
        )
    };
    let github = server_of_keys(scopes())
        .key("apiurl", |keys| &mut keys.api, parsed("a URL", |text| parse_url(text).map(|_| text.to_owned())))
        .key("deviceFlow", |keys| &mut keys.by_device, switch())
        .key("requireOrgMembership", |keys| &mut keys.organization, word("an organization's name").optional())
        .key("require2FA", |keys| &mut keys.require_2fa, switch());
    let oidc = server_of_keys(scopes())
        .key("deviceFlow", |keys| &mut keys.by_device, switch())
        .key("authorizationCodeFlow", |keys| &mut keys.by_code, switch())
        .key("usernameField", |keys| &mut keys.name_field, word("the name of a field"))
        .inline(|keys| keys, redirect_uri());
    let generic = redirect_uri()
        .key("authorizeEndpointURL", |keys| &mut keys.authorize, parsed("a URL", browsers_url).optional())
        .key("tokenEndpoint", |keys| &mut keys.server, server());
    let redirect = Section::new()
        .key("listen", |typed: &mut Typed| &mut typed.listen, address())
        .refused(&["cert", "key", "clientcacert"], TLS)
        .refused(&["webroot"], "the page is berth's own: remove it")
        .inert(&["tlsVersion", "curves", "cipher"]);
    let oauth2 = Section::new()
        .key("clientId", |typed: &mut Typed| &mut typed.client_id, word("a client's id").optional())
        .key("clientSecret", |typed| &mut typed.client_secret, parsed("a secret", parse_secret))
        .key("provider", |typed| &mut typed.provider, choice(PROVIDERS, &[]))
        .key("authTimeout", |typed| &mut typed.time, duration(SHORTEST..=Duration::from_secs(3600)))
        .key("redirect", |typed| typed, redirect)
        .key("github", |typed| &mut typed.github, github)
        .key("oidc", |typed| &mut typed.oidc, oidc)
        .key("generic", |typed| &mut typed.generic, generic)
        .inert(&["qrCodeClients", "deviceFlowClients"]);
    Section::new().key("method", |typed: &mut Typed| &mut typed.is_used, choice(METHODS, &[])).key(
        "oauth2",
        |typed| typed,
        oauth2,
    )
}

fn server_of_keys(section: Section<Keys>) -> Section<Keys> {
    section.inline(|keys: &mut Keys| &mut keys.server, server())
}

fn parse_secret(text: &str) -> Result<ClientSecret, &'static str> {
    if is_line(text) { Ok(ClientSecret(text.to_owned())) } else { Err("must be a text without control characters") }
}

impl Typed {
    /// Puts together what was typed. `others_ask` says whether a webhook has its say about each user's name.
    pub(super) fn resolve(&self, others_ask: bool, root: &Node, reader: &mut Reader<'_>) -> Option<OAuth2> {
        const PATH: [&str; 3] = ["auth", "keyboardInteractive", "oauth2"];
        if !self.is_used || reader.is_wrong_in(&PATH[..2].join(".")) {
            return None;
        }
        let mut wrong = |keys: &[&str], message: String| {
            reader.wrong_at(root, &[&PATH[..], keys].concat(), message);
            None
        };
        let missing = || "missing".to_owned();
        let Some(client_id) = self.client_id.clone() else { return wrong(&["clientId"], missing()) };
        if self.client_secret.0.is_empty() {
            return wrong(&["clientSecret"], missing());
        }
        let (name, keys) = match self.provider {
            Some(Name::GitHub) => ("github", &self.github),
            Some(Name::Oidc) => ("oidc", &self.oidc),
            Some(Name::Generic) => ("generic", &self.generic),
            None => return wrong(&["provider"], "missing; must be github, oidc or generic".to_owned()),
        };
        let server = match keys.server.resolve() {
            Ok(server) => server,
            Err((key, message)) if name == "generic" => return wrong(&[name, "tokenEndpoint", key], message),
            Err((key, message)) => return wrong(&[name, key], message),
        };
        let provider = match self.provider {
            Some(Name::GitHub) => {
                let Some(api) = server.at(&keys.api) else {
                    return wrong(&[name, "apiurl"], "must be HTTPS, as url is".into());
                };
                let (organization, require_2fa) = (keys.organization.clone(), keys.require_2fa);
                Provider::GitHub {
                    web: server,
                    api: Box::new(api),
                    by_device: keys.by_device,
                    organization,
                    require_2fa,
                }
            }
            Some(Name::Oidc) if !keys.by_device && !keys.by_code => {
                return wrong(&[name], "needs deviceFlow: true, or authorizationCodeFlow: true, or both".to_owned());
            }
            Some(Name::Oidc) if keys.by_code && keys.redirect_uri.is_none() => {
                return wrong(&[name, "redirectURI"], missing());
            }
            Some(Name::Oidc) => {
                let (by_device, by_code, name_field) = (keys.by_device, keys.by_code, keys.name_field.clone());
                Provider::Oidc { issuer: server, by_device, by_code, name_field }
            }
            _ if !others_ask => {
                return wrong(
                    &["provider"],
                    "generic does not say who a user is: auth.authz or configserver must".to_owned(),
                );
            }
            _ => match (&keys.authorize, &keys.redirect_uri) {
                (Some(authorize), Some(_)) => Provider::Generic { authorize: authorize.clone(), token: server },
                (None, _) => return wrong(&[name, "authorizeEndpointURL"], missing()),
                (_, None) => return wrong(&[name, "redirectURI"], missing()),
            },
        };
        let (path, servers) = match &provider {
            Provider::GitHub { web, api, .. } => (vec![name], [Some(web), Some(&**api)]),
            Provider::Oidc { issuer, .. } => (vec![name], [Some(issuer), None]),
            Provider::Generic { token, .. } => (vec![name, "tokenEndpoint"], [Some(token), None]),
        };
        let exposed = servers.into_iter().flatten().find(|server| server.is_exposed());
        let path = [&PATH[..], &path].concat();
        reader.warn_of(root, exposed.and_then(|server| dangers::of_server(&path, server)));
        let has_redirect = !matches!(provider, Provider::Oidc { by_code: false, .. });
        Some(OAuth2 {
            client_id,
            client_secret: self.client_secret.clone(),
            provider,
            time: self.time,
            redirect: has_redirect.then_some(self.listen),
            redirect_uri: keys.redirect_uri.clone(),
            scopes: keys.scopes.clone(),
            enforce_scopes: keys.enforce_scopes,
            // Else any user of the provider's is any user of berth's.
            enforce_username: keys.enforce_username.unwrap_or(!others_ask),
        })
    }
}
