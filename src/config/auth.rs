//! The `auth` section.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::kind::{Named, Private, Scalar, any_number_of, choice, duration, integer, is_line, parsed, path, text};
use super::reader::{Finding, Kind, Reader};
use super::section::Section;
use super::ssh::authentication_methods;
use super::yaml::{Node, Value};
use super::{BackendKind, Config, Own, dangers, docker, forwarding, kubernetes, quota, webhook};
use crate::auth::{
    AuthorizedKey, AuthorizedPrincipal, ByName, COMMAND_TOKENS, MethodList, PasswordHash, Totp, TotpAlgorithm,
    TotpSecret, User, check_tokens,
};
use crate::connection::sftp_server;

/// The longest user name, in bytes: what the SSH side takes.
const LONGEST_NAME: usize = 1024;

pub(super) fn section() -> Section<Config> {
    let users = Named { allowed: "a text of 1 to 1024 bytes without control characters", good: is_name, value: user() };
    let groups: Named<Section<User>> =
        Named { allowed: "a text of 1 to 1024 bytes without control characters", good: is_name, value: settings() };
    Section::new()
        .checked::<BTreeMap<String, User>>("groups", groups)
        .key("users", |config: &mut Config| &mut config.users, users)
        .inline(|config| &mut config.webhooks_typed, webhook::methods())
}

fn is_name(name: &str) -> bool {
    is_line(name) && name.len() <= LONGEST_NAME
}

fn user() -> Section<User> {
    settings().checked("groups", any_number_of(text("the name of a group", is_name)))
}

/// The path of a file, in which the user's name may stand.
fn users_path() -> Scalar<PathBuf> {
    path().which(|text| check_tokens(text, "u"))
}

fn authorized_key(line: &str) -> Result<AuthorizedKey, String> {
    let key = AuthorizedKey::parse(line).map_err(|error| error.to_string())?;
    check_forced(key.forced_command()).map(|()| key)
}

fn authorized_principal(line: &str) -> Result<AuthorizedPrincipal, String> {
    let principal = AuthorizedPrincipal::parse(line).map_err(|error| error.to_string())?;
    check_forced(principal.forced_command()).map(|()| principal)
}

/// Whether a line forces what could not be run.
fn check_forced(command: Option<&str>) -> Result<(), String> {
    let unable = command.and_then(sftp_server::unable);
    unable.map_or(Ok(()), |error| Err(format!("option \"command=\": {}: {error}", sftp_server::INTERNAL)))
}

/// What a user and a group can have.
fn settings() -> Section<User> {
    let password = parsed("the hash of a password", PasswordHash::parse).optional();
    let word = text("a program's path, or an argument", |text| !text.contains('\0'));
    let word = word.which(|text| check_tokens(text, COMMAND_TOKENS));
    let account = text("the name of an account", |text| is_name(text) && !text.contains(':')).optional();
    Section::new()
        .key("password", |user: &mut User| &mut user.password, password)
        .key(
            "authorizedKeys",
            |user| &mut user.authorized_keys,
            any_number_of(parsed("a public key as in an authorized_keys file", authorized_key)),
        )
        .key("authorizedKeysFile", |user| &mut user.authorized_keys_files, any_number_of(users_path()))
        .key("authorizedKeysCommand", |user| &mut user.authorized_keys_command, any_number_of(word))
        .key("authorizedKeysCommandUser", |user| &mut user.authorized_keys_command_user, account)
        .key(
            "authorizedPrincipals",
            |user| &mut user.authorized_principals,
            any_number_of(parsed("a certificate's principal", authorized_principal)),
        )
        .key("totp", |user| &mut user.totp, totp())
        .key("authenticationMethods", |user| &mut user.authentication_methods, authentication_methods())
        .key("authorizedPrincipalsFile", |user| &mut user.authorized_principals_files, any_number_of(users_path()))
        .checked("forwarding", forwarding::section())
        .checked("security", quota::section())
        .checked("docker", docker::of_users())
        .checked("kubernetes", kubernetes::of_users())
}

/// How a user's codes are made.
fn totp() -> Section<Totp> {
    const ALGORITHMS: &[(&str, TotpAlgorithm)] =
        &[("SHA1", TotpAlgorithm::Sha1), ("SHA256", TotpAlgorithm::Sha256), ("SHA512", TotpAlgorithm::Sha512)];
    let period = duration(Duration::from_secs(10)..=Duration::from_secs(300));
    Section::new()
        .key("secret", |totp: &mut Totp| &mut totp.secret, parsed("a secret in base32", TotpSecret::parse).optional())
        .key("secretFile", |totp| &mut totp.secret_file, Private(users_path().optional()))
        .key("algorithm", |totp| &mut totp.algorithm, choice(ALGORITHMS, &[]))
        .key("digits", |totp| &mut totp.digits, integer(6..=8))
        .key("period", |totp| &mut totp.period, period)
        .key("skew", |totp| &mut totp.skew, integer(0..=10))
}

/// A user's settings go over those of the user's groups, and these over everyone's, wherever in the file they stand.
pub(super) fn resolve(root: &Node, config: &mut Config, reader: &mut Reader<'_>) {
    let (table, forwarding, quota) = (user(), forwarding::section(), quota::section());
    let (docker, kubernetes) = (docker::of_users(), kubernetes::of_users());
    let (mut forwardings, mut quotas, mut owns) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    let everyones = Own { docker: config.docker.clone(), kubernetes: config.kubernetes.clone() };
    let is_whole = !config.is_completed_by_answers();
    let general = findings_in(root, &everyones, config.backend, is_whole, reader.directory);
    for (name, user) in &mut config.users {
        let path = ["auth", "users", name, "groups"];
        let groups = root.texts_at(&path);
        for group in groups.iter().filter(|group| root.at(&["auth", "groups", group]).is_none()) {
            reader.wrong_at(root, &path, format!("there is no group {group:?} in auth.groups"));
        }
        let own = [&path[..3]].into_iter().filter_map(|path| root.at(path));
        let nodes: Vec<&Node> =
            groups.iter().filter_map(|group| root.at(&["auth", "groups", group])).chain(own).collect();
        // What is wrong has been told where it stands.
        let mut silent = Reader::new(reader.directory);
        silent.additional_keys.clone_from(&reader.additional_keys);
        if !groups.is_empty() {
            *user = User::default();
            read_all(&table, nodes.iter().copied(), user, &mut silent);
        }
        if let [program] = user.authorized_keys_command.as_slice()
            && program.contains(' ')
        {
            let path = [&path[..3], &["authorizedKeysCommand"]].concat();
            reader.wrong_at(root, &path, "give the program and its arguments as a list: no shell takes them apart");
        }
        if let Some(program) = user.authorized_keys_command.first_mut() {
            *program = reader.directory.join(&program).to_string_lossy().into_owned();
        }
        let lists = match user.authentication_methods.as_slice() {
            [] => &config.ssh.authentication_methods,
            own => own,
        };
        if user.totp.is_used() && !lists.iter().all(MethodList::asks_for_code) {
            let path = [&path[..3], &["totp"]].concat();
            let message = match lists.iter().any(MethodList::asks_for_code) {
                true => "can be left out: a list of authenticationMethods lets in without keyboard-interactive",
                false => "has no effect: no list of authenticationMethods has keyboard-interactive",
            };
            reader.warn_at(root, &path, message);
        }
        let parts = |key: &'static str| nodes.iter().filter_map(move |node| node.at(&[key]));
        let mut users_forwarding = config.forwarding.everyone.clone();
        read_all(&forwarding, parts("forwarding"), &mut users_forwarding, &mut silent);
        forwardings.insert(name.clone(), users_forwarding);
        let mut users_quota = config.quotas.everyone;
        read_all(&quota, parts("security"), &mut users_quota, &mut silent);
        quotas.insert(name.clone(), users_quota);
        let mut own = None;
        if parts("docker").chain(parts("kubernetes")).any(|node| node.value != Value::Null) {
            let settings = own.insert(everyones.clone());
            read_all(&docker, parts("docker"), &mut settings.docker, &mut silent);
            read_all(&kubernetes, parts("kubernetes"), &mut settings.kubernetes, &mut silent);
            for finding in findings_in(root, settings, config.backend, is_whole, reader.directory) {
                // What everyone's have has been told, too.
                if general.iter().any(|known| (&known.path, &known.message) == (&finding.path, &finding.message)) {
                    continue;
                }
                let (section, key) = finding.path.split_once('.').unwrap_or_default();
                let (path, message) = (["auth", "users", name, section], format!("{key}: {}", finding.message));
                if finding.warning {
                    reader.warn_at(root, &path, message);
                } else {
                    reader.wrong_at(root, &path, message);
                }
            }
        }
        owns.insert(name.clone(), own);
    }
    config.forwarding.users = Arc::new(ByName::new(forwardings));
    config.quotas.users = Arc::new(ByName::new(quotas));
    config.own = Arc::new(ByName::new(owns));
}

/// What does not go together in the settings of a backend, where these are all, and what is worth a warning.
fn findings_in(root: &Node, own: &Own, backend: BackendKind, is_whole: bool, directory: &Path) -> Vec<Finding> {
    let mut reader = Reader::new(directory);
    match backend {
        _ if !is_whole => {}
        BackendKind::Docker => docker::check(root, &own.docker, &mut reader),
        BackendKind::Kubernetes => kubernetes::check(root, &own.kubernetes, &mut reader),
        BackendKind::SshProxy => {}
    }
    if reader.is_right() {
        reader.warn_of(root, dangers::of(backend, &own.docker, &own.kubernetes));
    }
    reader.findings()
}

/// Reads nodes over each other.
fn read_all<'n, T>(
    table: &impl Kind<T>,
    nodes: impl Iterator<Item = &'n Node>,
    target: &mut T,
    reader: &mut Reader<'_>,
) {
    for node in nodes.filter(|node| node.value != Value::Null) {
        table.read(node, target, reader);
    }
}
