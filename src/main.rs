//! The command line: see `berth --help`.

mod help;
mod output;
mod prompt;

use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::io::{BufRead, IsTerminal, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use berth::auth::{ByName, LONGEST_PASSWORD, PasswordHash, RevokedKeys, TotpSecret, Users, keep_spent_codes};
use berth::backend::{Backend, Backends};
use berth::config::{self, BackendKind, Config, Own};
use berth::run_directory::{self, RunDirectory, RunDirectoryError};
use berth::ssh::Services;
use berth::webhook::{ConfigServer, Webhooks};
use berth::{agent, geoip, logger, ssh};
use lexopt::prelude::*;
use output::{complain, print};
use rustix::process::{DumpableBehavior, Resource, Rlimit};

/// What ends the program with another status than 0.
enum Failure {
    /// The command line is wrong: exit status 2.
    Usage(String),
    /// What was asked for failed: exit status 1.
    Failed(String),
    /// The configuration is wrong: exit status 1.
    Config(Vec<config::Error>),
    /// Nobody reads what is printed any more: nothing has failed, and exit status 0.
    Unread,
}

impl From<lexopt::Error> for Failure {
    fn from(error: lexopt::Error) -> Self {
        Failure::Usage(error.to_string())
    }
}

fn failed(error: impl Display) -> Failure {
    Failure::Failed(error.to_string())
}

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    // The agent's own, so that nothing of the server's runs in a container.
    match arguments.split_first() {
        Some((command, [option])) if command == "agent" && (option == "--help" || option == "-h") => (),
        Some((command, rest)) if command == "agent" => return agent::run(rest.to_vec()),
        _ => (),
    }
    let result = run(arguments);
    log::logger().flush();
    match result {
        Ok(()) | Err(Failure::Unread) => ExitCode::SUCCESS,
        Err(Failure::Failed(message)) => {
            complain(format_args!("berth: {message}\n"));
            ExitCode::from(1)
        }
        Err(Failure::Config(errors)) => {
            // Bare, as compilers print them: editors jump to such lines.
            for error in errors {
                complain(format_args!("{error}\n"));
            }
            ExitCode::from(1)
        }
        Err(Failure::Usage(message)) => {
            complain(format_args!("berth: {message}; see 'berth --help'\n"));
            ExitCode::from(2)
        }
    }
}

fn run(arguments: Vec<OsString>) -> Result<(), Failure> {
    let mut parser = lexopt::Parser::from_args(arguments);
    match parser.next()? {
        Some(Long("help") | Short('h')) => help(&mut parser),
        Some(Long("version") | Short('V')) => version(),
        Some(Value(command)) => match command.to_str() {
            Some("serve") => with_config("serve", parser, |_, _| Ok(None), serve),
            Some("check") => with_config("check", parser, describe, check),
            Some("keygen") => keygen(parser),
            Some("help") => help(&mut parser),
            Some("version") => version(),
            Some("agent") => help_of("agent"),
            _ => Err(no_command(&command)),
        },
        Some(argument) => Err(argument.unexpected().into()),
        None => Err(Failure::Usage("no command given".into())),
    }
}

fn no_command(command: &OsStr) -> Failure {
    Failure::Usage(format!("no command {command:?}"))
}

fn version() -> Result<(), Failure> {
    print(format_args!("berth {}\n", env!("CARGO_PKG_VERSION")))
}

/// What is said of the command that follows, or of all.
fn help(parser: &mut lexopt::Parser) -> Result<(), Failure> {
    match parser.next()? {
        None => print(format_args!("{}", help::ALL)),
        Some(Value(command)) => {
            let text = command.to_str().and_then(help::of).ok_or_else(|| no_command(&command))?;
            print(format_args!("{text}"))
        }
        Some(argument) => Err(argument.unexpected().into()),
    }
}

fn help_of(command: &str) -> Result<(), Failure> {
    print(format_args!("{}", help::of(command).unwrap_or(help::ALL)))
}

/// Runs a command of this name that takes `--config FILE`. `more` gets the names of further options, and gives what is
/// printed in place of the command where there is such an option.
fn with_config(
    name: &str,
    mut parser: lexopt::Parser,
    more: impl Fn(&str, &mut lexopt::Parser) -> Result<Option<String>, Failure>,
    command: fn(&Path) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut path = None;
    while let Some(argument) = parser.next()? {
        match argument {
            Long("config") | Short('c') => path = Some(PathBuf::from(parser.value()?)),
            Long("help") | Short('h') => return help_of(name),
            Long(option) => {
                let option = option.to_owned();
                let unexpected = || Failure::Usage(format!("invalid option '--{option}'"));
                return print(format_args!("{}\n", more(&option, &mut parser)?.ok_or_else(unexpected)?));
            }
            other => return Err(other.unexpected().into()),
        }
    }
    command(&path.ok_or(Failure::Usage("--config FILE is missing".into()))?)
}

fn load(path: &Path) -> Result<Config, Failure> {
    config::load(path).map_err(Failure::Config)
}

/// The options of `berth check`.
fn describe(option: &str, parser: &mut lexopt::Parser) -> Result<Option<String>, Failure> {
    Ok(match option {
        "explain" => Some(config::explain(&parser.value()?.to_string_lossy()).map_err(Failure::Failed)?),
        "schema" => Some(format!("{:#}", config::schema())),
        _ => None,
    })
}

fn check(path: &Path) -> Result<(), Failure> {
    let config = load(path)?;
    for warning in &config.warnings {
        complain(format_args!("{warning}\n"));
    }
    warnings(&config).for_each(|warning| complain(format_args!("warning: {warning}\n")));
    if config.docker.needs_run_directory()
        && config.backend == BackendKind::Docker
        && let Err(error) = run_directory::verify(&config.run_directory)
    {
        // Whoever serves may be another user.
        complain(format_args!("warning: runDirectory: {error}\n"));
    }
    logger::check(&config.log).map_err(failed)?;
    let backends = Backends::new(&config).map_err(failed)?;
    own_backends(&config, &backends)?;
    open_geoip(&config)?;
    ssh::check_host_keys(&config.ssh).map_err(failed)?;
    print(format_args!("{}: ok\n", path.display()))
}

/// What is worth a warning outside of the file itself.
fn warnings(config: &Config) -> impl Iterator<Item = String> + use<> {
    let hooks = &config.webhooks;
    let has_hooks = hooks.password.is_some() || hooks.public_key.is_some() || hooks.browser.is_some();
    let nobody = (config.users.is_empty() && !has_hooks)
        .then(|| "auth has neither users nor webhooks: nobody can log in".to_owned());
    let revoked = RevokedKeys::new(config.ssh.revoked_keys.clone(), config.ssh.strict_modes);
    let of_users = config
        .users
        .iter()
        .flat_map(|(name, user)| user.problems().map(move |problem| format!("auth.users.{name:?}: {problem}")));
    nobody.into_iter().chain(revoked.problems()).chain(of_users).collect::<Vec<_>>().into_iter()
}

/// Takes the run directory for this process, as long as the value lives. Two that serve as one instance would remove each
/// other's containers.
fn take_run_directory(config: &Config) -> Result<Option<RunDirectory>, Failure> {
    let is_needed = match config.backend {
        BackendKind::Docker => config.docker.needs_run_directory(),
        BackendKind::Kubernetes => false,
        BackendKind::SshProxy => return Ok(None),
    };
    match RunDirectory::take(&config.run_directory) {
        Ok(taken) => Ok(Some(taken)),
        Err(error) if is_needed || matches!(error, RunDirectoryError::InUse(_)) => {
            Err(failed(format!("runDirectory: {error}")))
        }
        Err(error) => {
            log::warn!("runDirectory: {error}; nothing keeps another berth from serving as the same instance");
            Ok(None)
        }
    }
}

fn open_geoip(config: &Config) -> Result<Option<geoip::Database>, Failure> {
    config.geoip.as_deref().map(geoip::Database::open).transpose().map_err(|error| failed(format!("geoip: {error}")))
}

/// Gives up what a server never needs and an intruder might: privileges by programs that bring their own (setuid, file
/// capabilities), and its memory, with all keys in it, shown to other processes of the same user or written to a file.
/// Before any other thread runs: each has the first of its own. What is started inherits it, and the limit.
fn harden() -> rustix::io::Result<()> {
    rustix::thread::set_no_new_privs(true)?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    rustix::process::setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })
}

fn serve(path: &Path) -> Result<(), Failure> {
    harden().map_err(|error| failed(format!("the process cannot be hardened: {error}")))?;
    let config = load(path)?;
    logger::install(&config.log).map_err(failed)?;
    let (instance, run_directory) = (config.instance.clone(), config.run_directory.clone());
    let _taken = take_run_directory(&config)?;
    keep_spent_codes(&run_directory);
    let mut backends = Arc::new(Backends::new(&config).map_err(failed)?);
    backends.check();
    backends.claim().map_err(failed)?;
    let server = served(config, &backends)?;
    let mut reload = || {
        let mut config = load(path)?;
        if (&config.instance, &config.run_directory) != (&instance, &run_directory) {
            // What there is would not be found any more.
            log::warn!(
                "instance and runDirectory stay {instance:?} and {}: a restart changes them",
                run_directory.display()
            );
            (config.instance, config.run_directory) = (instance.clone(), run_directory.clone());
        }
        backends = Arc::new(backends.renew(&config).map_err(failed)?);
        served(config, &backends)
    };
    ssh::serve(server, || reload().inspect_err(log_failure).ok()).map_err(failed)
}

fn log_failure(failure: &Failure) {
    match failure {
        Failure::Usage(message) | Failure::Failed(message) => log::error!("{message}"),
        Failure::Unread => (),
        Failure::Config(errors) => errors.iter().for_each(|error| log::error!("{error}")),
    }
}

/// The backends of users who have settings of their own.
fn own_backends(config: &Config, backends: &Backends) -> Result<ByName<Option<Arc<dyn Backend>>>, Failure> {
    let template = config.template();
    config.own.try_map(|own| {
        let find = |own: &Own| {
            let mut settings = template.clone();
            settings.put(own.clone());
            backends.find(&settings).map_err(failed)
        };
        own.as_ref().map(find).transpose()
    })
}

/// What connections are served with.
fn served(config: Config, backends: &Arc<Backends>) -> Result<ssh::Server, Failure> {
    for warning in &config.warnings {
        log::warn!("{warning}");
    }
    warnings(&config).for_each(|warning| log::warn!("{warning}"));
    let geoip = open_geoip(&config)?;
    // Time for the containers to be removed, and for their connections' threads to end.
    let stop_time = match config.backend {
        BackendKind::Docker => config.docker.container_stop,
        BackendKind::Kubernetes => config.kubernetes.pod_stop,
        BackendKind::SshProxy => Duration::ZERO,
    } + Duration::from_secs(5);
    let template = config.template();
    let users = own_backends(&config, backends)?;
    let mut services = Services::new(backends.clone(), config.security, config.forwarding, config.ssh.max_sessions)
        .with_backends(users)
        .with_quotas(config.quotas);
    if let Some(server) = &config.webhooks.configuration {
        let backends = Arc::clone(backends);
        services = services.ask(ConfigServer::new(server.clone()), template, move |config| backends.find(config));
    }
    let known = Users::new(config.users, config.ssh.trusted_user_ca_keys.clone(), &config.ssh.authentication_methods);
    let known = known.permit(config.ssh.permit_user_environment.clone()).trust(config.ssh.strict_modes);
    let authenticator = Webhooks::new(known, config.webhooks);
    ssh::Server::new(config.ssh, services, Box::new(authenticator), geoip, config.monitoring, config.log, stop_time)
        .map_err(failed)
}

fn keygen(mut parser: lexopt::Parser) -> Result<(), Failure> {
    let (mut kind, mut file, mut comment) = (OsString::from("ed25519"), None, String::from("berth"));
    while let Some(argument) = parser.next()? {
        match argument {
            Short('t') | Long("type") => kind = parser.value()?,
            Short('C') | Long("comment") => comment = parser.value()?.to_string_lossy().into_owned(),
            Short('f') | Long("file") => file = Some(PathBuf::from(parser.value()?)),
            Long("help") | Short('h') => return help_of("keygen"),
            other => return Err(other.unexpected().into()),
        }
    }
    let kind = match kind.to_str() {
        Some("ed25519") => ssh::KeyKind::Ed25519,
        Some("ecdsa") => ssh::KeyKind::Ecdsa,
        Some("rsa") => ssh::KeyKind::Rsa,
        Some("password") => return hash_password(),
        Some("totp") => {
            let secret = TotpSecret::make().map_err(failed)?;
            // The secret's line first: so the output is good as a secretFile.
            return print(format_args!("{}\n{}\n", secret.text(), secret.uri(&comment)));
        }
        _ => return Err(Failure::Usage(format!("no key type {kind:?}: ed25519, ecdsa, rsa, password or totp"))),
    };
    let file = file.ok_or(Failure::Usage("-f FILE is missing".into()))?;
    let key = ssh::keygen(kind, &file).map_err(failed)?;
    print(format_args!("{}\n", key.public_text().map_err(failed)?))
}

fn hash_password() -> Result<(), Failure> {
    let stdin = std::io::stdin();
    let password = if stdin.is_terminal() {
        prompt::new_password(stdin.as_fd()).map_err(failed)?
    } else {
        let mut line = Vec::new();
        // As long as it may be, with the line's end, and one more to see that it is longer.
        stdin.lock().take(LONGEST_PASSWORD as u64 + 3).read_until(b'\n', &mut line).map_err(failed)?;
        line.pop_if(|last| *last == b'\n');
        line.pop_if(|last| *last == b'\r');
        line
    };
    if password.is_empty() {
        return Err(failed("no password given"));
    }
    if password.len() > LONGEST_PASSWORD {
        return Err(failed(format!("the password is longer than {LONGEST_PASSWORD} bytes")));
    }
    // Clients send passwords as UTF-8 (RFC 4252 section 8): any other would never fit.
    let password = std::str::from_utf8(&password).map_err(|_| failed("the password is not UTF-8"))?;
    print(format_args!("{}\n", PasswordHash::make(password.as_bytes()).map_err(failed)?))
}
