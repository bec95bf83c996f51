//! The ar container of a .deb, as deb(5) restricts it: short names, sizes in decimal, nothing else.
//!
//! Not the `ar` crate: it allocates what a header claims, which here comes from outside.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;

const MAGIC: &[u8] = b"!<arch>\n";
const HEADER: usize = 60;
/// A .deb has three members; some vendors add a signature or two.
const MEMBERS: usize = 32;

/// One file inside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    pub name: String,
    pub offset: u64,
    pub size: u64,
}

/// Lists the members. The message says what is wrong with the file.
pub(super) fn members(file: &File) -> Result<Vec<Member>, String> {
    let length = file.metadata().map_err(|e| e.to_string())?.len();
    let mut magic = [0; 8];
    if length < 8 || file.read_exact_at(&mut magic, 0).is_err() || magic != MAGIC {
        return Err("it is no ar archive, so no .deb".into());
    }
    let mut members = Vec::new();
    let mut offset = MAGIC.len() as u64;
    while offset < length {
        let mut header = [0; HEADER];
        file.read_exact_at(&mut header, offset)
            .map_err(|_| format!("it ends within the ar header at byte {offset}"))?;
        let member =
            read_header(&header, offset).ok_or_else(|| format!("the ar header at byte {offset} is damaged"))?;
        if member.size > length - member.offset {
            return Err(format!("it ends within member {}", member.name));
        }
        offset = member.offset + member.size + member.size % 2;
        members.push(member);
        if members.len() > MEMBERS {
            return Err(format!("it has more than {MEMBERS} members"));
        }
    }
    Ok(members)
}

fn read_header(header: &[u8; HEADER], offset: u64) -> Option<Member> {
    let field = |range: std::ops::Range<usize>| std::str::from_utf8(&header[range]).ok().map(str::trim_end);
    if &header[58..] != b"`\n" {
        return None;
    }
    let name = field(0..16)?;
    let name = name.strip_suffix('/').unwrap_or(name);
    let plain = !name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic() && b != b'/');
    let digits = field(48..58)?;
    let size = digits.parse().ok().filter(|_| digits.bytes().all(|b| b.is_ascii_digit()))?;
    plain.then(|| Member { name: name.to_owned(), offset: offset + HEADER as u64, size })
}

/// Writes an archive whose members have no time, no owner and mode 0644.
pub(crate) struct Writer<W> {
    out: W,
}

impl<W: Write + Seek> Writer<W> {
    pub fn new(mut out: W) -> io::Result<Self> {
        out.write_all(MAGIC)?;
        Ok(Self { out })
    }

    /// Adds a member whose size shows only when it has been read.
    pub fn append(&mut self, name: &str, content: &mut dyn Read) -> io::Result<u64> {
        let start = self.out.stream_position()?;
        self.out.write_all(&[b' '; HEADER])?;
        let size = io::copy(content, &mut self.out)?;
        if size % 2 == 1 {
            self.out.write_all(b"\n")?;
        }
        let end = self.out.stream_position()?;
        let header = format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{size:<10}`\n", 0, 0, 0, "100644");
        if header.len() != HEADER {
            return Err(io::Error::other(format!("member {name} of {size} bytes does not fit the ar format")));
        }
        self.out.seek(SeekFrom::Start(start))?;
        self.out.write_all(header.as_bytes())?;
        self.out.seek(SeekFrom::Start(end))?;
        Ok(size)
    }

    pub fn finish(mut self) -> io::Result<W> {
        self.out.flush()?;
        Ok(self.out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn listed(bytes: &[u8]) -> Result<Vec<Member>, String> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        members(&file)
    }

    fn written(members: &[(&str, &[u8])]) -> Vec<u8> {
        let mut writer = Writer::new(io::Cursor::new(Vec::new())).unwrap();
        for (name, content) in members {
            writer.append(name, &mut &content[..]).unwrap();
        }
        writer.finish().unwrap().into_inner()
    }

    #[test]
    fn what_is_written_reads_back() {
        let bytes = written(&[("debian-binary", b"2.0\n"), ("odd", b"123"), ("empty", b"")]);
        let members = listed(&bytes).unwrap();
        let names: Vec<(&str, u64)> = members.iter().map(|m| (m.name.as_str(), m.size)).collect();
        assert_eq!(names, [("debian-binary", 4), ("odd", 3), ("empty", 0)]);
        let odd = &members[1];
        assert_eq!(&bytes[usize::try_from(odd.offset).unwrap()..][..3], b"123");
    }

    #[test]
    fn damage_is_named() {
        let bytes = written(&[("debian-binary", b"2.0\n"), ("data.tar", &[7; 100])]);
        assert!(listed(&bytes[..bytes.len() - 1]).unwrap_err().contains("within member data.tar"));
        assert!(listed(&bytes[..80]).unwrap_err().contains("within the ar header"));
        assert!(listed(b"MZ").unwrap_err().contains("no ar archive"));
    }

    proptest! {
        #[test]
        fn never_panics(at in 0usize..200, byte in any::<u8>(), cut in 0usize..240) {
            let mut bytes = written(&[("debian-binary", b"2.0\n"), ("control.tar", &[1; 51]), ("data.tar", &[2; 20])]);
            if let Some(slot) = bytes.get_mut(at) { *slot = byte; }
            bytes.truncate(cut);
            let _ = listed(&bytes);
        }
    }
}
