//! `fnmatch(3)` as module aliases, disks and interfaces are matched: `*`, `?` and `[...]` with ranges and negation, no flags.

/// Whether the whole of `text` matches `pattern`. Takes at most `pattern * text` steps, whatever the pattern holds.
pub fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    // Where to go on after a mismatch: behind the last `*`, which then takes one byte more.
    let mut retry: Option<(usize, usize)> = None;
    loop {
        let step = match (pattern.get(p), text.get(t)) {
            (None, None) => return true,
            (Some(b'*'), _) => {
                retry = Some((p + 1, t));
                p += 1;
                continue;
            }
            (Some(_), Some(&byte)) => one(&pattern[p..], byte),
            (Some(_) | None, _) => None,
        };
        match (step, retry) {
            (Some(length), _) => {
                p += length;
                t += 1;
            }
            (None, Some((after_star, taken))) if taken < text.len() => {
                retry = Some((after_star, taken + 1));
                p = after_star;
                t = taken + 1;
            }
            (None, _) => return false,
        }
    }
}

/// Matches one byte against the head of a pattern; gives the length of that head.
fn one(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern[0] {
        b'?' => Some(1),
        b'[' => match bracket(&pattern[1..], byte) {
            Some((length, true)) => Some(length + 1),
            Some((_, false)) => None,
            // No closing bracket: the bracket is an ordinary character.
            None => (byte == b'[').then_some(1),
        },
        b'\\' if pattern.len() > 1 => (byte == pattern[1]).then_some(2),
        literal => (literal == byte).then_some(1),
    }
}

/// Reads a bracket expression behind its `[`: its length with the `]`, and whether it takes the byte. `None` without
/// a closing bracket.
fn bracket(pattern: &[u8], byte: u8) -> Option<(usize, bool)> {
    let negated = matches!(pattern.first(), Some(b'!' | b'^'));
    let start = usize::from(negated);
    let mut at = start;
    let mut taken = false;
    loop {
        let low = *pattern.get(at)?;
        // A `]` in the first place is an ordinary character.
        if low == b']' && at > start {
            return Some((at + 1, taken != negated));
        }
        match (pattern.get(at + 1), pattern.get(at + 2)) {
            (Some(b'-'), Some(&high)) if high != b']' => {
                taken |= (low..=high).contains(&byte);
                at += 3;
            }
            _ => {
                taken |= low == byte;
                at += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_the_patterns_of_modules_alias() {
        let nvme = "pci:v00001B36d00000010sv00001AF4sd00001100bc01sc08i02";
        assert!(matches("pci:v*d*sv*sd*bc01sc08i02*", nvme));
        assert!(!matches("pci:v*d*sv*sd*bc01sc06i01*", nvme));
        assert!(matches("pci:v00001B36d00000010sv*sd*bc*sc*i*", nvme));
        assert!(matches("usb:v*p*d*dc*dsc*dp*ic08isc06ip50in*", "usb:v46F4p0001d0000dc00dsc00dp00ic08isc06ip50in00"));
        assert!(matches("scsi:t-0x00*", "scsi:t-0x00"));
        assert!(!matches("scsi:t-0x00", "scsi:t-0x05"));
        assert!(matches("usb:v0*d[0-9]*", "usb:v0d7x"));
        assert!(matches("a[!b-d]e", "axe") && !matches("a[!b-d]e", "ace"));
        assert!(matches("a[]x]e", "a]e") && matches("a[", "a[") && matches("", "") && !matches("", "a"));
        assert!(matches("**", "") && matches("a\\*", "a*") && !matches("a\\*", "ab"));
    }

    #[test]
    fn many_stars_take_no_exponential_time() {
        assert!(!matches(&format!("{}b", "a*".repeat(200)), &"a".repeat(5000)));
    }

    /// The obvious recursive definition, for patterns without brackets.
    fn oracle(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern.split_first(), text.split_first()) {
            (None, None) => true,
            (Some((b'*', rest)), None) => oracle(rest, text),
            (Some((b'*', rest)), Some((_, more))) => oracle(rest, text) || oracle(pattern, more),
            (Some((p, rest)), Some((t, more))) if *p == b'?' || p == t => oracle(rest, more),
            _ => false,
        }
    }

    proptest::proptest! {
        #[test]
        fn agrees_with_the_definition(pattern in "[ab*?]{0,8}", text in "[ab]{0,10}") {
            proptest::prop_assert_eq!(matches(&pattern, &text), oracle(pattern.as_bytes(), text.as_bytes()));
        }

        #[test]
        fn any_pattern_is_tried_without_a_panic(pattern in "[\\[\\]!^*?a-c\\\\-]{0,20}", text in "[a-c\\]\\[-]{0,20}") {
            let _ = matches(&pattern, &text);
        }
    }
}
