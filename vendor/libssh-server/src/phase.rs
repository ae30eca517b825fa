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
