//! The messages on the wire: two bytes of length (big endian), then that much JSON.

use std::fmt;
use std::io::{self, Read, Write};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{NodeIdentity, RendezvousError};

/// The most bytes that one message may have.
pub const MAXIMUM_MESSAGE_BYTES: usize = 4096;

/// The protocol's version.
pub const VERSION: u32 = 2;

/// 32 bytes, on the wire as 64 hex digits: a nonce or a proof.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Bytes32(pub [u8; 32]);

impl From<Bytes32> for String {
    fn from(bytes: Bytes32) -> String {
        to_hex(&bytes.0)
    }
}

impl TryFrom<String> for Bytes32 {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        from_hex(&text).and_then(|bytes| bytes.try_into().ok()).map(Self).ok_or("not 64 hex digits")
    }
}

/// Small hex digits.
pub fn to_hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |value: u8| char::from(DIGITS[usize::from(value & 15)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(*byte)]).collect()
}

/// Reads hex digits.
pub fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|value| u8::try_from(value).ok());
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    pairs.iter().map(|[high, low]| Some(digit(high)? << 4 | digit(low)?)).collect()
}

/// The node's first message.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hello {
    pub version: u32,
    pub nonce: Bytes32,
    pub identity: NodeIdentity,
    pub time: u64,
}

/// What the manager says.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum FromManager {
    Challenge {
        nonce: Bytes32,
        name: String,
        time: u64,
        proof: Bytes32,
    },
    Grant {
        sealed: String,
    },
    Refused(Refusal),
    /// Come back after so many milliseconds.
    Busy {
        retry_after_ms: u32,
    },
}

/// The node's proof.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    pub proof: Bytes32,
}

/// What is sealed in a grant.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sealed {
    pub token: String,
}

/// Why a manager gives no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Refusal {
    /// It has no token yet.
    NotReady,
    /// Too many are asking.
    Busy,
    /// The node's proof is wrong.
    WrongSecret,
    /// It speaks another version.
    Version,
    /// Another living machine of the cluster has the node's name.
    DuplicateName,
    /// The node asks for a manager's seat and is not one of the configured managers.
    NotListed,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refusal::NotReady => "it has no token yet",
            Refusal::Busy => "too many nodes are asking",
            Refusal::WrongSecret => "this node's cluster secret is not the manager's",
            Refusal::Version => "it speaks another version of the rendezvous",
            Refusal::DuplicateName => {
                "the cluster has a machine of this node's name that is living, a manager, or down for a few moments \
                 only; give one of them another hostname, or wait until this machine's old self has been down for some \
                 minutes"
            }
            Refusal::NotListed => {
                "this node asks to be a manager, and its address is not one of the managers that it is configured \
                 with; name this node there (join.managers, join.servers)"
            }
        })
    }
}

/// Sends one message.
pub fn send(writer: &mut impl Write, message: &impl Serialize) -> io::Result<()> {
    let json = serde_json::to_vec(message).map_err(io::Error::other)?;
    let length = u16::try_from(json.len()).ok().filter(|length| usize::from(*length) <= MAXIMUM_MESSAGE_BYTES);
    let length = length.ok_or_else(|| io::Error::from(io::ErrorKind::FileTooLarge))?;
    let mut frame = length.to_be_bytes().to_vec();
    frame.extend_from_slice(&json);
    writer.write_all(&frame)?;
    writer.flush()
}

/// Receives one message.
///
/// # Errors
/// [`RendezvousError::Protocol`] for a length of zero or beyond the limit, and for anything but the expected JSON;
/// [`RendezvousError::Unreachable`] where the connection ends or stalls.
pub fn receive<T: DeserializeOwned>(reader: &mut impl Read) -> Result<T, RendezvousError> {
    let mut length = [0; 2];
    reader.read_exact(&mut length)?;
    let length = usize::from(u16::from_be_bytes(length));
    if length == 0 || length > MAXIMUM_MESSAGE_BYTES {
        return Err(RendezvousError::Protocol("a message has an impossible length"));
    }
    let mut json = vec![0; length];
    reader.read_exact(&mut json)?;
    serde_json::from_slice(&json).map_err(|_| RendezvousError::Protocol("a message has an unknown form"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn oversized_and_cut_off_messages_are_refused() {
        let mut frame = 5000_u16.to_be_bytes().to_vec();
        frame.resize(5002, b' ');
        assert!(matches!(receive::<Answer>(&mut &frame[..]), Err(RendezvousError::Protocol(_))));
        assert!(matches!(receive::<Answer>(&mut &[0_u8, 0][..]), Err(RendezvousError::Protocol(_))));
        let mut frame = Vec::new();
        send(&mut frame, &Answer { proof: Bytes32([7; 32]) }).unwrap();
        for length in 0..frame.len() {
            assert!(
                matches!(receive::<Answer>(&mut &frame[..length]), Err(RendezvousError::Unreachable(_))),
                "{length}"
            );
        }
        assert!(receive::<Answer>(&mut &frame[..]).is_ok());
        assert!(send(&mut Vec::new(), &"x".repeat(5000)).is_err());
    }

    proptest::proptest! {
        #[test]
        fn any_frame_is_read_without_a_panic(frame in proptest::collection::vec(0_u8.., 0..200)) {
            let _ = receive::<Hello>(&mut &frame[..]);
            let _ = receive::<FromManager>(&mut &frame[..]);
        }

        #[test]
        fn messages_read_back(nonce in 0_u8.., hostname in ".{0,64}", id in ".{0,64}", time in 0_u64..) {
            let identity = NodeIdentity { hostname, id, seat: crate::rendezvous::Seat::Manager };
            let hello = Hello { version: VERSION, nonce: Bytes32([nonce; 32]), identity, time };
            let mut frame = Vec::new();
            send(&mut frame, &hello).unwrap();
            let back: Hello = receive(&mut &frame[..]).unwrap();
            proptest::prop_assert_eq!(back.identity, hello.identity);
            proptest::prop_assert!(back.nonce == hello.nonce && back.time == time);
        }

        #[test]
        fn hex_reads_back(bytes in proptest::collection::vec(0_u8.., 0..40), text in ".{0,10}") {
            proptest::prop_assert_eq!(from_hex(&to_hex(&bytes)), Some(bytes));
            let _ = from_hex(&text);
        }
    }
}
