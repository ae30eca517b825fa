//! Logins by a browser: OAuth 2.0's authorization codes (RFC 6749, with RFC 7636) and device codes (RFC 8628), and who
//! the user is by OpenID Connect or GitHub, in ContainerSSH's terms.
//!
//! The user is sent to the provider's page with a browser of his own. With a device code, berth asks the provider
//! whether he has been there; else the provider sends the browser on to berth's page, which shows what the user has to
//! give to his SSH client. So nobody gets in by a code that went to another connection.

mod jwt;
mod wire;

use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use openssl::memcmp;
use openssl::sha::sha256;
use serde_json::Value;

use crate::auth::{Attempt, BrowserLogin, Busy, Grant, Presence};
use crate::config::{HttpServer, OAuth2, Provider};
use crate::fuzzing::Target;
use crate::http::{Body, Client, Deadline, Request, USER_AGENT, basic, encode};
use crate::metadata::{Fact, Metadata};
use crate::random;
use crate::turn::Turns;
pub use wire::page;
use wire::{form, without_padding};

pub(crate) const FUZZ_TARGETS: &[Target] = &[("oauth2", wire::fuzz), ("jwt", jwt::fuzz)];

/// The longest answer, in bytes.
const LONGEST: usize = 256 * 1024;

/// How often a provider is asked that does not say how often (RFC 8628 section 3.2), and the least.
const INTERVAL: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(1));

/// How much less often a provider is asked that wants that: RFC 8628 section 3.5.
const SLOWER: Duration = Duration::from_secs(5);

/// A provider's keys: a JWK Set.
#[derive(Clone)]
struct Keys {
    url: String,
    asked: Instant,
    set: Arc<Value>,
}

/// The keys of the provider that was asked last. There is one in a configuration.
static KEYS: Mutex<Option<Keys>> = Mutex::new(None);

/// How long a provider's keys are good without asking again.
const KEYS_HOLD: Duration = Duration::from_secs(600);

/// How many logins may ask the provider at once for how they begin, and how long one may wait for its turn. Anybody can
/// have one begun, and a provider counts what its client asks for.
const BEGINNING: usize = 4;
const PATIENCE: Duration = Duration::from_secs(30);

/// How long it is taken to be true what a provider says of where its pages are.
const DISCOVERY_TIME: Duration = Duration::from_secs(300);

static BEGINS: LazyLock<Turns> = LazyLock::new(|| Turns::new(BEGINNING, 0));

/// What a provider has said of itself.
#[derive(Clone)]
struct Discovered {
    url: String,
    asked: Instant,
    answer: Value,
}

/// The last answer to a discovery.
static DISCOVERED: Mutex<Option<Discovered>> = Mutex::new(None);

const DEVICE_GRANT: &str = "urn:ietf:params:oauth:grant-type:device_code";

/// Where a provider answers.
#[derive(Clone)]
struct Endpoints {
    /// The page that a browser is sent to, if that is wanted.
    authorize: Option<String>,
    device: Option<HttpServer>,
    token: HttpServer,
    user: Option<HttpServer>,
    /// Who signs what the provider says: OpenID Connect's.
    issuer: Option<String>,
    /// Where the keys are by which that is verified.
    keys: Option<HttpServer>,
}

/// A login that has begun.
struct Login {
    settings: OAuth2,
    endpoints: Endpoints,
    deadline: Deadline,
    instruction: String,
    way: Way,
}

enum Way {
    Device { code: String, interval: Duration },
    Browser { state: String, verifier: String },
}

/// Begins a login: asks the provider where its pages are, and for a code. A failure is in the log.
///
/// # Errors
/// Its turn did not come in time.
pub fn begin(settings: &OAuth2, attempt: &Attempt<'_>) -> Result<Option<Box<dyn BrowserLogin>>, Busy> {
    let deadline = Deadline::after(settings.time);
    let is_wanted = || attempt.presence.is_there();
    let Some(_turn) = BEGINS.take_for(Some(attempt.source), 0, PATIENCE, &is_wanted) else {
        log::warn!("{}: no login by a browser: too many begin at once", attempt.connection);
        return Err(Busy);
    };
    let begun = settings.find_endpoints(deadline).and_then(|endpoints| settings.begin(endpoints, deadline));
    let begun = begun.inspect_err(|error| log::error!("{}: no login by a browser: {error}", attempt.connection));
    Ok(begun.ok().map(|login| Box::new(login) as Box<dyn BrowserLogin>))
}

impl OAuth2 {
    fn find_endpoints(&self, deadline: Deadline) -> Result<Endpoints, String> {
        let below = |server: &HttpServer, path: &str| {
            let url = format!("{}{path}", server.url.trim_end_matches('/'));
            server.at(&url).ok_or_else(|| format!("{url} is no URL"))
        };
        match &self.provider {
            Provider::GitHub { web, api, by_device, .. } => Ok(Endpoints {
                authorize: Some(below(web, "/login/oauth/authorize")?.url),
                device: if *by_device { Some(below(web, "/login/device/code")?) } else { None },
                token: below(web, "/login/oauth/access_token")?,
                user: Some(below(api, "/user")?),
                issuer: None,
                keys: None,
            }),
            Provider::Generic { authorize, token } => Ok(Endpoints {
                authorize: Some(authorize.clone()),
                device: None,
                token: token.clone(),
                user: None,
                issuer: None,
                keys: None,
            }),
            Provider::Oidc { issuer, by_device, by_code, .. } => {
                let server = below(issuer, "/.well-known/openid-configuration")?;
                let found = discover(&server, deadline)?;
                let find = |key: &str| {
                    let url = found[key].as_str().ok_or_else(|| format!("{}: there is no {key} in it", server.url))?;
                    issuer.at(url).ok_or_else(|| format!("{}: its {key} is no URL, or not HTTPS as it is", server.url))
                };
                let name = found["issuer"].as_str().unwrap_or_default();
                if name.trim_end_matches('/') != issuer.url.trim_end_matches('/') {
                    return Err(format!("{}: it is of another issuer, {name:?}", server.url));
                }
                Ok(Endpoints {
                    authorize: if *by_code { Some(find("authorization_endpoint")?.url) } else { None },
                    device: if *by_device { Some(find("device_authorization_endpoint")?) } else { None },
                    token: find("token_endpoint")?,
                    user: Some(find("userinfo_endpoint")?),
                    issuer: Some(name.to_owned()),
                    // Where TLS says whose the answers are, a provider may do without.
                    keys: if found["jwks_uri"].is_null() && issuer.speaks_tls() {
                        None
                    } else {
                        Some(find("jwks_uri")?)
                    },
                })
            }
        }
    }

    fn begin(&self, endpoints: Endpoints, deadline: Deadline) -> Result<Login, String> {
        let (way, instruction) = match self.begin_with_device(&endpoints, deadline) {
            Some(Ok(begun)) => begun,
            Some(Err(error)) if endpoints.authorize.is_none() => return Err(error),
            other => {
                if let Some(Err(error)) = other {
                    log::warn!("{error}: the user is asked for a code in its place");
                }
                self.begin_with_browser(&endpoints)?
            }
        };
        Ok(Login { settings: self.clone(), endpoints, deadline, instruction, way })
    }

    fn begin_with_device(&self, endpoints: &Endpoints, deadline: Deadline) -> Option<Result<(Way, String), String>> {
        let server = endpoints.device.as_ref()?;
        let body = form(&[("client_id", &self.client_id), ("scope", &self.scope())]);
        Some(ask(server, Some(&body), Some(&self.basic()), deadline).and_then(|answer| {
            let text = |key: &str| answer[key].as_str().filter(|text| wire::is_shown(text));
            let (Some(code), Some(user_code)) = (answer["device_code"].as_str(), text("user_code")) else {
                return Err(format!("{}: {}", server.url, wire::error(&answer)));
            };
            let page = text("verification_uri_complete").or(text("verification_uri"));
            let page = page.ok_or_else(|| format!("{}: there is no verification_uri in its answer", server.url))?;
            let interval = answer["interval"].as_u64().map_or(INTERVAL.0, Duration::from_secs).max(INTERVAL.1);
            let instruction =
                format!("Log in with a browser at {page}\nCheck that this code is shown there: {user_code}\n");
            Ok((Way::Device { code: code.to_owned(), interval }, instruction))
        }))
    }

    fn begin_with_browser(&self, endpoints: &Endpoints) -> Result<(Way, String), String> {
        let (state, verifier) = (secret()?, secret()?);
        let challenge = without_padding(&sha256(verifier.as_bytes()));
        let mut fields = vec![
            ("response_type", "code"),
            ("client_id", &*self.client_id),
            ("state", &*state),
            ("code_challenge", &*challenge),
            ("code_challenge_method", "S256"),
        ];
        let scope = self.scope();
        fields.extend((!scope.is_empty()).then_some(("scope", &*scope)));
        fields.extend(self.redirect_uri.as_deref().map(|uri| ("redirect_uri", uri)));
        // What the provider signs says which login it is of.
        fields.extend(endpoints.issuer.is_some().then_some(("nonce", &*state)));
        let page = endpoints.authorize.as_deref().unwrap_or_default();
        let separator = if page.contains('?') { '&' } else { '?' };
        let instruction = format!("Log in with a browser at {page}{separator}{}\n", form(&fields));
        Ok((Way::Browser { state, verifier }, instruction))
    }

    fn scope(&self) -> String {
        let mut scopes: Vec<&str> = self.scopes.iter().map(String::as_str).collect();
        match &self.provider {
            Provider::Oidc { .. } => scopes.insert(0, "openid"),
            Provider::GitHub { organization, require_2fa, .. } => {
                scopes.extend(organization.is_some().then_some("read:org"));
                scopes.extend(require_2fa.then_some("read:user"));
            }
            Provider::Generic { .. } => {}
        }
        scopes.join(" ")
    }

    /// How berth says who it is: RFC 6749 section 2.3.1.
    fn basic(&self) -> String {
        let part = |text: &str| encode(text).replace('/', "%2F");
        basic(&part(&self.client_id), &part(&self.client_secret.0))
    }
}

impl BrowserLogin for Login {
    fn instruction(&self) -> &str {
        &self.instruction
    }

    fn asks_for_code(&self) -> bool {
        matches!(self.way, Way::Browser { .. })
    }

    fn finish(self: Box<Self>, attempt: &Attempt<'_>, answer: &[u8]) -> Option<Grant> {
        let found = self.token(answer, attempt.presence).and_then(|token| self.user(attempt, &token));
        found.inspect_err(|error| log::info!("{}: the login by a browser failed: {error}", attempt.connection)).ok()
    }
}

impl Login {
    /// The provider's answer with a token, once there is one.
    fn token(&self, answer: &[u8], client: &Presence) -> Result<Value, String> {
        let (settings, server) = (&self.settings, &self.endpoints.token);
        let basic = settings.basic();
        let found = match &self.way {
            Way::Browser { state, verifier } => {
                let text = std::str::from_utf8(answer).unwrap_or_default().trim();
                let (given, code) = text.split_once('|').ok_or("what the user gave is not what the page shows")?;
                if given.len() != state.len() || !memcmp::eq(given.as_bytes(), state.as_bytes()) {
                    return Err("what the user gave is of another login".into());
                }
                let mut fields = vec![
                    ("grant_type", "authorization_code"),
                    ("code", code),
                    ("client_id", &*settings.client_id),
                    ("code_verifier", verifier),
                ];
                fields.extend(settings.redirect_uri.as_deref().map(|uri| ("redirect_uri", uri)));
                ask(server, Some(&form(&fields)), Some(&basic), self.deadline)?
            }
            Way::Device { code, interval } => {
                let fields = [("grant_type", DEVICE_GRANT), ("device_code", code), ("client_id", &*settings.client_id)];
                let (body, mut interval) = (form(&fields), *interval);
                loop {
                    if !client.is_there() {
                        return Err("the client is gone".into());
                    }
                    if self.deadline.remaining() <= interval {
                        return Err("the user has not logged in in time".into());
                    }
                    std::thread::sleep(interval);
                    match ask(server, Some(&body), Some(&basic), self.deadline) {
                        Ok(answer) if answer["error"] == "authorization_pending" => {}
                        Ok(answer) if answer["error"] == "slow_down" => interval += SLOWER,
                        Ok(answer) => break answer,
                        // It may do better the next time.
                        Err(error) => log::warn!("{error}"),
                    }
                }
            }
        };
        if found["access_token"].as_str().is_none_or(|token| !wire::is_token(token)) {
            return Err(format!("{}: {}", server.url, wire::error(&found)));
        }
        Ok(found)
    }

    /// What an ID token claims, once the provider's keys say that it is the provider's.
    fn id_token(&self, token: &str) -> Result<Value, String> {
        let Some(server) = &self.endpoints.keys else { return jwt::claims(token).map_err(|error| error.to_string()) };
        let mut keys = KEYS.lock().unwrap_or_else(PoisonError::into_inner).clone();
        keys = keys.filter(|keys| keys.url == server.url && keys.asked.elapsed() < KEYS_HOLD);
        if let Some(Ok(claims)) = keys.map(|keys| jwt::verify(token, &keys.set)) {
            return Ok(claims);
        }
        // It may have others by now.
        let set = Arc::new(ask(server, None, None, self.deadline)?);
        let keys = Keys { url: server.url.clone(), asked: Instant::now(), set: Arc::clone(&set) };
        *KEYS.lock().unwrap_or_else(PoisonError::into_inner) = Some(keys);
        jwt::verify(token, &set).map_err(|error| error.to_string())
    }

    /// Who the user is, by the provider.
    fn user(&self, attempt: &Attempt<'_>, answer: &Value) -> Result<Grant, String> {
        let settings = &self.settings;
        let token = answer["access_token"].as_str().unwrap_or_default();
        if settings.enforce_scopes {
            let granted = answer["scope"].as_str().unwrap_or_default();
            let granted: Vec<&str> = granted.split([' ', ',']).collect();
            if let Some(scope) = settings.scopes.iter().find(|scope| !granted.contains(&scope.as_str())) {
                return Err(format!("the user has not granted {scope:?}"));
            }
        }
        let mut metadata = Metadata::default();
        let mut tell = |name: String, value: &str, sensitive| {
            metadata.facts.insert(name, Fact { value: value.to_owned(), sensitive });
        };
        let bearer = format!("Bearer {token}");
        let user = match &self.endpoints.user {
            Some(server) => Some((ask(server, None, Some(&bearer), self.deadline)?, server)),
            None => None,
        };
        let name = match (&settings.provider, &user) {
            (Provider::Oidc { name_field, .. }, Some((user, server))) => {
                let nonce = if let Way::Browser { state, .. } = &self.way { Some(state.as_str()) } else { None };
                let issuer = self.endpoints.issuer.as_deref().unwrap_or_default();
                let claims = self.id_token(answer["id_token"].as_str().unwrap_or_default())?;
                wire::check_claims(&claims, issuer, &settings.client_id, nonce, &user["sub"])?;
                // OpenID Connect Core 5.1: anybody may have said that this address is his. Some send the text.
                if name_field == "email" && user["email_verified"] != true && user["email_verified"] != "true" {
                    return Err("the provider has not verified the user's email (email_verified)".into());
                }
                tell("OIDC_TOKEN".into(), token, true);
                for (key, value) in user.as_object().into_iter().flatten() {
                    if let Some(value) = value.as_str() {
                        tell(format!("OIDC_USERINFO_{}", key.to_uppercase()), value, false);
                    }
                }
                Some(
                    user[name_field]
                        .as_str()
                        .ok_or_else(|| format!("{}: there is no text {name_field:?} in it", server.url))?,
                )
            }
            (Provider::GitHub { api, organization, require_2fa, .. }, Some((user, server))) => {
                let login = user["login"].as_str().ok_or_else(|| format!("{}: {}", server.url, wire::error(user)))?;
                let has_2fa = user["two_factor_authentication"].as_bool();
                if *require_2fa && has_2fa != Some(true) {
                    return Err("the user has no second factor at GitHub".into());
                }
                if let Some(organization) = organization {
                    let url =
                        format!("{}/user/memberships/orgs/{}", api.url.trim_end_matches('/'), encode(organization));
                    let server = api.at(&url).ok_or("apiurl is no URL")?;
                    if ask(&server, None, Some(&bearer), self.deadline)?["state"] != "active" {
                        return Err(format!("the user is no member of {organization:?}"));
                    }
                }
                let method = if self.asks_for_code() { "authorization_code" } else { "device" };
                tell("GITHUB_METHOD".into(), method, false);
                tell("GITHUB_TOKEN".into(), token, true);
                if let Some(has_2fa) = has_2fa {
                    tell("GITHUB_2FA".into(), if has_2fa { "true" } else { "false" }, false);
                }
                for (key, name) in wire::GITHUB_FACTS {
                    let value = user[*key].as_str().map(str::to_owned).or(user[*key].as_u64().map(|id| id.to_string()));
                    if let Some(value) = value {
                        tell(format!("GITHUB_{name}"), &value, true);
                    }
                }
                Some(login)
            }
            _ => {
                tell("OAUTH2_TOKEN".into(), token, true);
                None
            }
        };
        if let Some(name) = name.filter(|name| settings.enforce_username && *name != attempt.user) {
            return Err(format!("by the provider the user is {name:?}"));
        }
        metadata.authenticated_user = name.map(str::to_owned);
        Ok(Grant { metadata, ..Grant::default() })
    }
}

/// What a provider says of itself: it is asked anew when that is some minutes old, or was an error.
fn discover(server: &HttpServer, deadline: Deadline) -> Result<Value, String> {
    let kept = || DISCOVERED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = kept().as_ref().filter(|known| known.is_good(&server.url, Instant::now())) {
        return Ok(known.answer.clone());
    }
    let answer = ask(server, None, None, deadline)?;
    if answer["token_endpoint"].is_string() {
        *kept() = Some(Discovered { url: server.url.clone(), asked: Instant::now(), answer: answer.clone() });
    }
    Ok(answer)
}

impl Discovered {
    fn is_good(&self, url: &str, now: Instant) -> bool {
        self.url == url && now < self.asked + DISCOVERY_TIME
    }
}

/// A name that nobody can foretell.
fn secret() -> Result<String, String> {
    random::bytes::<32>().map(|bytes| without_padding(&bytes)).map_err(|error| error.to_string())
}

/// Asks a server, with a form if there is one. Gives its JSON, whatever the status, where that may say why.
fn ask(
    server: &HttpServer,
    form: Option<&str>,
    authorization: Option<&str>,
    deadline: Deadline,
) -> Result<Value, String> {
    let deadline = deadline.min(Deadline::after(server.timeout));
    let mut fields = vec![("Accept", "application/json"), ("User-Agent", USER_AGENT)];
    fields.extend(authorization.map(|value| ("Authorization", value)));
    let (method, body) = match form {
        Some(form) => ("POST", Body::Bytes(form.as_bytes())),
        None => ("GET", Body::Empty),
    };
    fields.extend(form.map(|_| ("Content-Type", "application/x-www-form-urlencoded")));
    let target = if server.path.is_empty() { "/" } else { &server.path };
    let request = Request { method, target, fields: &fields, body };
    let failed = |error| format!("{}: {error}", server.url);
    let mut response = Client::new(server.address.clone()).send(request, deadline).map_err(failed)?;
    let status = response.status();
    let body = response.bytes(LONGEST, deadline).map_err(failed)?;
    match serde_json::from_slice(&body) {
        // RFC 6749 section 5.2: 400 and 401 come with the reason.
        Ok(answer @ Value::Object(_)) if matches!(status, 200 | 400 | 401) => Ok(answer),
        _ if status == 200 => Err(format!("{}: the answer is not JSON", server.url)),
        _ => Err(format!("{}: status {status}", server.url)),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use serde_json::Value;

    use super::Discovered;

    #[test]
    fn what_a_provider_says_of_itself_is_good_for_five_minutes() {
        let asked = Instant::now();
        let known = Discovered { url: "https://a".into(), asked, answer: Value::Null };
        assert!(known.is_good("https://a", asked + Duration::from_secs(299)));
        assert!(!known.is_good("https://a", asked + Duration::from_secs(300)));
        assert!(!known.is_good("https://b", asked));
    }
}
