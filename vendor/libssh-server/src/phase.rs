//! Which message may come when.

use crate::negotiation::Stage;
use crate::number;
use crate::packet::Side;

/// The messages that a key exchange consists of.
const FIRST_EXCHANGE_MESSAGE: u8 = 30;
const LAST_EXCHANGE_MESSAGE: u8 = 34;

/// What is to be done with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is the session's owner's.
    Owner,
    /// It is a key exchange's.
    Exchange,
    /// It is one, and the answer to it takes long.
    Compute,
    /// It is to be answered by the same with another number.
    Ping,
    /// The peer goes.
    Disconnect,
    /// Nothing.
    Ignore,
    /// Nobody knows it: SSH_MSG_UNIMPLEMENTED.
    Unknown,
    /// It may not come now: the connection ends.
    Refuse,
}

/// What decides over that.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Phase {
    pub side: Side,
    pub stage: Stage,
    /// A key exchange is under way, from either side's KEXINIT on.
    pub exchanging: bool,
    /// A server waits for an INFO_RESPONSE, or a client for an answer.
    pub expecting: bool,
}

impl Phase {
    pub fn fate(self, message: u8) -> Fate {
        let Phase { side, stage, exchanging, expecting } = self;
        let server = side == Side::Server;
        let authenticating = stage == Stage::Authenticating && !exchanging;
        let settled = stage != Stage::Exchanging && !exchanging;
        let owner_if = |allowed| if allowed { Fate::Owner } else { Fate::Refuse };
        match message {
            number::DISCONNECT => Fate::Disconnect,
            number::IGNORE | number::UNIMPLEMENTED | number::DEBUG => Fate::Ignore,
            number::SERVICE_REQUEST => owner_if(server && settled),
            number::SERVICE_ACCEPT => owner_if(!server && settled && expecting),
            number::EXT_INFO if settled => Fate::Ignore,
            number::EXT_INFO => Fate::Refuse,
            FIRST_EXCHANGE_MESSAGE..=LAST_EXCHANGE_MESSAGE if server => Fate::Compute,
            number::KEXINIT | number::NEWKEYS | FIRST_EXCHANGE_MESSAGE..=LAST_EXCHANGE_MESSAGE => Fate::Exchange,
            number::USERAUTH_REQUEST => owner_if(server && authenticating),
            number::USERAUTH_FAILURE | number::USERAUTH_SUCCESS | number::USERAUTH_INFO_REQUEST => {
                owner_if(!server && authenticating && expecting)
            }
            number::USERAUTH_BANNER if !server && authenticating => Fate::Ignore,
            number::USERAUTH_BANNER => Fate::Refuse,
            number::USERAUTH_INFO_RESPONSE => owner_if(server && authenticating && expecting),
            // What crosses our KEXINIT is still to be taken: the stage changes with the peer's.
            80..=82 | 90..=100 => owner_if(stage == Stage::Authenticated),
            // Clients hide by it when a key was typed. Nobody types before.
            number::PING if server && stage == Stage::Authenticated => Fate::Ping,
            _ => Fate::Unknown,
        }
    }

    /// Whether a message may be sent between our KEXINIT and NEWKEYS (RFC 4253 section 7.1).
    pub fn passes(message: u8) -> bool {
        matches!(message, 1..=49)
            && !matches!(message, number::IGNORE | number::SERVICE_REQUEST | number::SERVICE_ACCEPT | number::EXT_INFO)
    }

    /// Whether strict key exchange has it before the first NEWKEYS.
    pub fn is_strict(message: u8) -> bool {
        matches!(message, number::KEXINIT | number::NEWKEYS | FIRST_EXCHANGE_MESSAGE..=LAST_EXCHANGE_MESSAGE)
    }
}

#[cfg(test)]
mod tests {
    use super::{Fate, Phase};
    use crate::negotiation::Stage;
    use crate::packet::Side;

    /// The numbers of the messages that are for the owner, and of those that may not come.
    fn sorted(side: Side, stage: Stage, exchanging: bool, expecting: bool) -> (Vec<u8>, Vec<u8>) {
        let phase = Phase { side, stage, exchanging, expecting };
        let of = |fate| (0..=255).filter(|message| phase.fate(*message) == fate).collect();
        (of(Fate::Owner), of(Fate::Refuse))
    }

    fn connection() -> impl Iterator<Item = u8> {
        (80..=82).chain(90..=100)
    }

    #[test]
    fn nothing_but_the_exchange_may_come_before_the_first_keys() {
        for side in [Side::Server, Side::Client] {
            let (owner, refused) = sorted(side, Stage::Exchanging, true, true);
            assert_eq!(owner, []);
            assert_eq!(refused, [5, 6, 7, 50, 51, 52, 53, 60, 61].into_iter().chain(connection()).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_client_may_do_nothing_but_log_in_first() {
        let (owner, refused) = sorted(Side::Server, Stage::Authenticating, false, false);
        assert_eq!(owner, [5, 50]);
        assert_eq!(refused, [6, 51, 52, 53, 60, 61].into_iter().chain(connection()).collect::<Vec<_>>());
        assert_eq!(sorted(Side::Server, Stage::Authenticating, false, true).0, [5, 50, 61]);
        assert_eq!(sorted(Side::Client, Stage::Authenticating, false, false).0, []);
        assert_eq!(sorted(Side::Client, Stage::Authenticating, false, true).0, [6, 51, 52, 60]);
    }

    #[test]
    fn connection_messages_come_once_a_user_is_logged_in_but_not_in_an_exchange() {
        for (side, others) in [(Side::Server, vec![5]), (Side::Client, vec![])] {
            let (owner, _) = sorted(side, Stage::Authenticated, false, false);
            assert_eq!(owner, others.into_iter().chain(connection()).collect::<Vec<_>>());
            // What crossed our KEXINIT.
            assert_eq!(sorted(side, Stage::Authenticated, true, false).0, connection().collect::<Vec<_>>());
            assert_eq!(sorted(side, Stage::Exchanging, true, false).0, []);
        }
    }

    #[test]
    fn a_server_computes_and_a_client_only_what_it_has_begun() {
        for (side, expected) in [(Side::Server, (30..=34).collect()), (Side::Client, vec![])] {
            for stage in [Stage::Exchanging, Stage::Authenticating, Stage::Authenticated] {
                let phase = Phase { side, stage, exchanging: true, expecting: false };
                let found: Vec<u8> = (0..=255).filter(|message| phase.fate(*message) == Fate::Compute).collect();
                assert_eq!(found, expected);
            }
        }
    }

    #[test]
    fn in_an_exchange_only_what_rfc_4253_has_goes_out() {
        let passing: Vec<_> = (0..=255).filter(|message| Phase::passes(*message)).collect();
        let expected: Vec<_> = [1, 3, 4].into_iter().chain(8..=49).collect();
        assert_eq!(passing, expected);
    }
}
