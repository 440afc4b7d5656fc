//! TLS under tonic: channels that verify with our rules, and a listener whose requests know their
//! peer. (tonic's own TLS would choose a crypto provider and verifier for us.)

mod accept;
mod channel;

pub use accept::{AcceptLimits, Incoming, PeerInfo, ServerIo, incoming};
pub use channel::{ChannelError, ChannelOptions, Target, channel, unix_channel};
