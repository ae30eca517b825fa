//! What a user has to prove: sshd_config(5), AuthenticationMethods.

use super::User;

/// A method of RFC 4252, as one step on the way in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// `publickey`
    PublicKey,
    /// `password`
    Password,
    /// `keyboard-interactive`: by this device, or by all that a user has for it.
    KeyboardInteractive(Option<Device>),
}

/// What keyboard-interactive asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// The password.
    Password,
    /// A code by the user's TOTP secret.
    Totp,
    /// A login by a browser.
    OAuth2,
}

/// The devices by their names.
const DEVICES: [(&str, Device); 3] =
    [("password", Device::Password), ("totp", Device::Totp), ("oauth2", Device::OAuth2)];

/// The methods by RFC 4252's names, in the order in which servers list them.
const METHODS: [(&str, Method); 3] = [
    ("publickey", Method::PublicKey),
    ("password", Method::Password),
    ("keyboard-interactive", Method::KeyboardInteractive(None)),
];

impl Device {
    /// The device of this name.
    pub fn of(name: &str) -> Option<Device> {
        DEVICES.iter().find(|(known, _)| *known == name).map(|(_, device)| *device)
    }
}

impl Method {
    /// RFC 4252's name.
    pub fn name(self) -> &'static str {
        match self {
            Method::PublicKey => METHODS[0].0,
            Method::Password => METHODS[1].0,
            Method::KeyboardInteractive(_) => METHODS[2].0,
        }
    }

    fn parse(text: &str) -> Result<Method, String> {
        if let Some(name) = text.strip_prefix("keyboard-interactive:") {
            let device = Device::of(name).map(|device| Method::KeyboardInteractive(Some(device)));
            return device.ok_or_else(|| {
                let known = DEVICES.map(|(name, _)| name).join(", ");
                format!("keyboard-interactive:{name} is no method: its device can be {known}")
            });
        }
        let method = METHODS.iter().find(|(name, _)| *name == text).map(|(_, method)| *method);
        method.ok_or_else(|| format!("{text:?} is no method: use {}", METHODS.map(|(name, _)| name).join(", ")))
    }
}

/// Methods all of which let in, in this order; or `any`, which stands for each alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MethodList(Vec<Method>);

impl MethodList {
    /// Takes names separated by commas.
    pub fn parse(text: &str) -> Result<MethodList, String> {
        if text == "any" {
            return Ok(MethodList(Vec::new()));
        }
        let methods = text.split(',').map(Method::parse).collect::<Result<Vec<_>, _>>()?;
        // Whoever could try codes without anything else could use up the tries of any user.
        if methods.first() == Some(&CODE) {
            return Err("keyboard-interactive:totp must come after another method".into());
        }
        Ok(MethodList(methods))
    }

    /// Whether whoever has completed it has given a code, where the user has a secret.
    pub fn asks_for_code(&self) -> bool {
        self.0.iter().any(|method| [CODE, Method::KeyboardInteractive(None)].contains(method))
    }
}

const CODE: Method = Method::KeyboardInteractive(Some(Device::Totp));

/// What is left to be proven: any one of these lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Methods(Vec<Vec<Method>>);

/// What a proof leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing: it was not to be proven now.
    Refused,
    /// This is left.
    Partial(Methods),
    /// The user is in.
    Done,
}

impl Default for Methods {
    fn default() -> Self {
        Methods(METHODS.iter().map(|(_, method)| vec![*method]).collect())
    }
}

impl Methods {
    /// One of these lists. None at all is `any`.
    pub fn new(lists: &[MethodList]) -> Methods {
        let (any, lists): (Vec<_>, Vec<_>) = lists.iter().map(|list| list.0.clone()).partition(Vec::is_empty);
        if lists.is_empty() || !any.is_empty() { Methods::default() } else { Methods(lists) }
    }

    /// Of a user who has a TOTP secret, where nothing else is said: a code in any case.
    fn with_code() -> Methods {
        let interactive = Method::KeyboardInteractive(None);
        Methods(vec![vec![Method::PublicKey, CODE], vec![Method::Password, CODE], vec![interactive]])
    }

    /// What is asked of a user, where `all` are everyone's lists.
    pub fn of(user: &User, all: &[MethodList]) -> Methods {
        match (user.authentication_methods.as_slice(), all) {
            ([], []) if user.totp.is_used() => Methods::with_code(),
            ([], all) => Methods::new(all),
            (own, _) => Methods::new(own),
        }
    }

    /// Whether a list has nothing but methods that `can` be proven.
    pub fn can_be_proven(&self, can: &dyn Fn(Method) -> bool) -> bool {
        self.0.iter().any(|list| list.iter().all(|method| can(*method)))
    }

    /// What it leads to if this is proven now.
    pub fn step(&self, proven: Method) -> Step {
        let mut left = self.0.clone();
        let mut is_found = false;
        for list in left.iter_mut().filter(|list| list.first() == Some(&proven)) {
            list.remove(0);
            is_found = true;
        }
        match is_found {
            false => Step::Refused,
            true if left.iter().any(Vec::is_empty) => Step::Done,
            true => Step::Partial(Methods(left)),
        }
    }

    /// What can be proven now, the first list's first.
    pub fn next(&self) -> impl Iterator<Item = Method> {
        self.0.iter().filter_map(|list| list.first().copied())
    }

    /// The names of these, as in SSH_MSG_USERAUTH_FAILURE.
    pub fn names(&self) -> String {
        names(&mut self.next())
    }
}

/// The methods' names, each once, separated by commas.
pub(super) fn names(methods: &mut dyn Iterator<Item = Method>) -> String {
    let given: Vec<&str> = methods.map(Method::name).collect();
    METHODS.map(|(name, _)| name).into_iter().filter(|name| given.contains(name)).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::{Device, Method, MethodList, Methods, Step};

    const INTERACTIVE: Method = Method::KeyboardInteractive(None);

    fn methods(lists: &[&str]) -> Methods {
        Methods::new(&lists.iter().map(|list| MethodList::parse(list).unwrap()).collect::<Vec<_>>())
    }

    /// The names that are left after these, one after another; or that the user is in.
    fn after(methods: &Methods, proven: &[Method]) -> String {
        let mut left = methods.clone();
        for method in proven {
            match left.step(*method) {
                Step::Refused => return "refused".into(),
                Step::Done => return "done".into(),
                Step::Partial(next) => left = next,
            }
        }
        left.names()
    }

    #[test]
    fn any_method_lets_in_unless_lists_are_given() {
        for methods in [methods(&[]), methods(&["any"]), methods(&["publickey,password", "any"])] {
            assert_eq!(methods.names(), "publickey,password,keyboard-interactive");
            for method in [Method::PublicKey, Method::Password, INTERACTIVE] {
                assert_eq!(methods.step(method), Step::Done);
            }
        }
    }

    #[test]
    fn one_list_has_to_be_completed_in_its_order() {
        let methods =
            methods(&["publickey,password", "publickey,keyboard-interactive", "password,publickey,publickey"]);
        assert_eq!(methods.names(), "publickey,password");
        let (key, password) = (Method::PublicKey, Method::Password);
        for (proven, left) in [
            (&[INTERACTIVE][..], "refused"),
            (&[key], "password,keyboard-interactive"),
            (&[key, key], "refused"),
            (&[key, password], "done"),
            (&[key, INTERACTIVE], "done"),
            (&[password], "publickey"),
            (&[password, key], "publickey,password,keyboard-interactive"),
            (&[password, key, key], "done"),
        ] {
            assert_eq!(after(&methods, proven), left, "{proven:?}");
        }
    }

    #[test]
    fn a_device_stands_for_itself_alone() {
        let methods = methods(&["publickey,keyboard-interactive:totp"]);
        let device = |device| Method::KeyboardInteractive(Some(device));
        assert_eq!(after(&methods, &[Method::PublicKey]), "keyboard-interactive");
        assert_eq!(after(&methods, &[Method::PublicKey, INTERACTIVE]), "refused");
        assert_eq!(after(&methods, &[Method::PublicKey, device(Device::Password)]), "refused");
        assert_eq!(after(&methods, &[Method::PublicKey, device(Device::Totp)]), "done");
    }

    #[test]
    fn what_is_no_list_is_refused() {
        for text in ["", "publickey,", "publickey password", "hostbased", "keyboard-interactive:pam", "any,password"] {
            assert!(MethodList::parse(text).is_err(), "{text:?}");
        }
        assert!(MethodList::parse("keyboard-interactive:totp").unwrap_err().contains("after another method"));
    }
}
