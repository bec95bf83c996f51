//! Certificates as far as a node has to look into them itself: when one is valid, and which key it is for.
//!
//! Takes DER (X.690), gives slices of it, and guarantees nothing about trust: signatures are rustls's work. Lengths of
//! more than four bytes, which no certificate has, are refused.

/// SEQUENCE, and SEQUENCE OF.
pub const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
/// The certificate's version, explicitly tagged.
const VERSION: u8 = 0xa0;

/// One element of DER.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Element<'a> {
    /// The identifier: class, form and number in one byte.
    pub tag: u8,
    /// The element with its header.
    pub whole: &'a [u8],
    /// What it holds.
    pub content: &'a [u8],
    /// What follows it.
    pub after: &'a [u8],
}

/// The first element; `None` where there is no whole one.
pub fn element(bytes: &[u8]) -> Option<Element<'_>> {
    let (&tag, &first) = (bytes.first()?, bytes.get(1)?);
    let (header, length) = if first < 0x80 {
        (2, usize::from(first))
    } else {
        let count = usize::from(first & 0x7f);
        let digits = bytes.get(2..2 + count).filter(|_| (1..=4).contains(&count))?;
        (2 + count, digits.iter().fold(0_usize, |length, digit| length << 8 | usize::from(*digit)))
    };
    let end = header.checked_add(length)?;
    Some(Element { tag, whole: bytes.get(..end)?, content: bytes.get(header..end)?, after: bytes.get(end..)? })
}

/// The parts of a certificate that are looked at (RFC 5280, section 4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Certificate<'a> {
    /// What the `Validity` holds: two moments.
    pub validity: &'a [u8],
    /// The `SubjectPublicKeyInfo`, with its header.
    pub public_key: &'a [u8],
}

/// Looks into a certificate; `None` where it is none.
pub fn certificate(der: &[u8]) -> Option<Certificate<'_>> {
    let sequence = |bytes| element(bytes).filter(|element| element.tag == SEQUENCE);
    let mut rest = sequence(sequence(der)?.content)?.content;
    if let Some(version) = element(rest).filter(|element| element.tag == VERSION) {
        rest = version.after;
    }
    rest = element(rest).filter(|serial| serial.tag == INTEGER)?.after;
    let [_algorithm, _issuer, validity, _subject, public_key] = {
        let mut next = || {
            let found = sequence(rest)?;
            rest = found.after;
            Some(found)
        };
        [next()?, next()?, next()?, next()?, next()?]
    };
    Some(Certificate { validity: validity.content, public_key: public_key.whole })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_follow_each_other() {
        let bytes = [0x02, 1, 7, 0x30, 0x81, 2, 5, 0, 0xff];
        let one = element(&bytes).unwrap();
        assert_eq!((one.tag, one.content), (0x02, &[7][..]));
        let two = element(one.after).unwrap();
        assert_eq!((two.tag, two.content, two.after), (SEQUENCE, &[5, 0][..], &[0xff][..]));
        assert_eq!(two.whole, &bytes[3..8]);
        for cut in [&bytes[..0], &bytes[..1], &bytes[..2], &bytes[3..7]] {
            assert_eq!(element(cut), None);
        }
        // Indefinite, and longer than any certificate.
        assert_eq!(element(&[0x30, 0x80, 0, 0]), None);
        assert_eq!(element(&[0x30, 0x85, 0, 0, 0, 0, 1, 0]), None);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(0_u8.., 0..200)) {
            let _ = certificate(&bytes);
            if let Some(found) = element(&bytes) {
                proptest::prop_assert_eq!([found.whole, found.after].concat(), bytes);
            }
        }
    }
}
