//! Exchanges by keyboard-interactive, RFC 4256: what is asked for, and of whom.

use libssh_server::number;

use crate::auth::{BrowserLogin, Device, Grant, Method, Requirements, Step};
use crate::connection::wire::Write;

/// An exchange.
pub(super) struct Exchange {
    /// What it proves.
    pub device: Option<Device>,
    /// What is asked for, the next one first.
    pub questions: Vec<Question>,
    /// What the answers so far have given.
    pub grant: Option<Grant>,
    /// The login by a browser, once it has begun.
    pub login: Option<Box<dyn BrowserLogin>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Question {
    Password,
    Code,
    Browser,
}

/// How an exchange goes on.
pub(super) enum Next {
    /// With this SSH_MSG_USERAUTH_INFO_REQUEST.
    Ask(Vec<u8>),
    /// The login by a browser has to begin.
    Begin,
    /// Nothing is left to ask for.
    Nothing,
}

impl Question {
    /// As PAM's modules put it. The client puts the user and host before it.
    fn prompt(self) -> &'static str {
        match self {
            Question::Password => "Password: ",
            Question::Code => "Verification code: ",
            Question::Browser => "What the browser shows in the end: ",
        }
    }
}

impl Exchange {
    /// By the device that the client names (`submethods`) among those that may be, else by the first.
    pub fn new(required: &Requirements, proven: &[Method], submethods: &str) -> Exchange {
        let devices = required.methods.next().filter_map(|method| match method {
            Method::KeyboardInteractive(device) => Some(device),
            _ => None,
        });
        let devices: Vec<Option<Device>> = devices.collect();
        let named = submethods.split(',').map(|name| Device::of(name.trim()));
        let named = named.filter(Option::is_some).find(|device| devices.contains(device));
        let device = named.or(devices.first().copied()).flatten();
        Exchange { device, questions: questions(required, proven, device), grant: None, login: None }
    }

    /// How it goes on.
    pub fn next(&self) -> Next {
        let (question, instruction, has_prompt) = match (self.questions.first(), &self.login) {
            (Some(Question::Browser), None) => return Next::Begin,
            (Some(Question::Browser), Some(login)) => (Question::Browser, login.instruction(), login.asks_for_code()),
            (Some(question), _) => (*question, "", true),
            (None, _) => return Next::Nothing,
        };
        let mut message = vec![number::USERAUTH_INFO_REQUEST];
        // No name of the dialogue, no language.
        for text in ["", instruction, ""] {
            message.put_string(text);
        }
        message.put_u32(u32::from(has_prompt));
        if has_prompt {
            message.put_string(question.prompt());
            // Without echo.
            message.put_boolean(false);
        }
        Next::Ask(message)
    }
}

/// What is asked for. Whoever has proven nothing yet is asked for a password first, so that it does not tell who exists.
fn questions(required: &Requirements, proven: &[Method], device: Option<Device>) -> Vec<Question> {
    let method = Method::KeyboardInteractive(device);
    let Requirements { methods, has_password, has_secret, by_browser } = required;
    let first = match device {
        Some(Device::Totp) => return vec![Question::Code],
        None if *by_browser => Question::Browser,
        Some(Device::OAuth2) => Question::Browser,
        None | Some(Device::Password) => Question::Password,
    };
    let is_proven = |method: Method, device| {
        let ways = [method, Method::KeyboardInteractive(Some(device)), Method::KeyboardInteractive(None)];
        ways.iter().any(|way| proven.contains(way))
    };
    let may_follow = device.is_none() && *has_secret && methods.step(method) != Step::Refused;
    let needs_code = may_follow && !is_proven(method, Device::Totp);
    let has_other = *has_password && !is_proven(Method::Password, Device::Password);
    let needs_first = proven.is_empty() || !needs_code || has_other;
    let mut questions = Vec::new();
    questions.extend(needs_first.then_some(first));
    questions.extend(needs_code.then_some(Question::Code));
    questions
}

#[cfg(test)]
mod tests {
    use super::Question::{Browser, Code, Password};
    use super::{Exchange, Method, Question, Requirements, Step};
    use crate::auth::{MethodList, Methods};

    fn asked(has_password: bool, has_secret: bool, by_browser: bool, list: &str, proven: &[Method]) -> Vec<Question> {
        let mut methods = Methods::new(&[MethodList::parse(list).unwrap()]);
        for method in proven {
            if let Step::Partial(left) = methods.step(*method) {
                methods = left;
            }
        }
        let required = Requirements { methods, has_password, has_secret, by_browser };
        Exchange::new(&required, proven, "").questions
    }

    #[test]
    fn whoever_has_proven_nothing_is_asked_for_a_password_first() {
        for (has_password, has_secret) in [(false, false), (true, false), (false, true), (true, true)] {
            let ask = |list| asked(has_password, has_secret, false, list, &[]);
            assert_eq!(ask("keyboard-interactive")[0], Password);
            // Nothing more of whoever cannot get in by it, however right that is.
            assert_eq!(ask("publickey,keyboard-interactive"), [Password]);
            assert_eq!(ask("publickey,keyboard-interactive:totp"), [Password]);
        }
        assert_eq!(asked(true, true, false, "keyboard-interactive", &[]), [Password, Code]);
        assert_eq!(asked(true, true, true, "keyboard-interactive", &[]), [Browser, Code]);
        assert_eq!(asked(true, true, true, "keyboard-interactive:password", &[]), [Password]);
    }

    #[test]
    fn after_another_method_what_is_missing_is_asked_for() {
        let ask = |has_password, list: &str, proven: &[Method]| asked(has_password, true, false, list, proven);
        let (key, password) = (Method::PublicKey, Method::Password);
        assert_eq!(ask(true, "publickey,keyboard-interactive", &[key]), [Password, Code]);
        assert_eq!(ask(false, "publickey,keyboard-interactive", &[key]), [Code]);
        assert_eq!(ask(true, "publickey,keyboard-interactive:totp", &[key]), [Code]);
        assert_eq!(ask(true, "password,keyboard-interactive", &[password]), [Code]);
        assert_eq!(asked(true, false, false, "publickey,keyboard-interactive", &[key]), [Password]);
    }
}
