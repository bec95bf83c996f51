//! PE32+ files, as far as EFI programs need: reading headers and sections, replacing and appending sections.
//!
//! Follows the PE/COFF specification as UEFI uses it. Nothing is moved: an appended section takes a slot of the section
//! table that the linker left free and space after everything else, both in the file and in memory. A file that leaves
//! no slot, is signed already, or whose raw data is not aligned, is refused with the reason.

use std::fmt::Write as _;

use thiserror::Error;

const MACHINE_X86_64: u16 = 0x8664;
const MAGIC_PE32_PLUS: u16 = 0x20b;
const SECTION_HEADER: usize = 40;
/// `DllCharacteristics`: memory is never both writable and executable.
const NX_COMPAT: u16 = 0x0100;

/// Section contents: initialised data, readable.
pub const DATA: u32 = 0x4000_0040;
/// Section contents: code, readable.
pub const CODE: u32 = 0x4000_0020;

/// A file is not a PE file that can be worked with.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
pub enum PeError {
    /// The structure is not that of a PE32+ file for x86-64.
    #[error("not an x86-64 EFI program: {0}")]
    Format(&'static str),
    /// The section table is full.
    #[error(
        "no room for section {name} in the headers ({size} bytes); use the stub of systemd 254 or later, which leaves room"
    )]
    NoRoom {
        /// The section.
        name: String,
        /// Size of the headers in bytes.
        size: u32,
    },
    /// A section name is longer than eight bytes.
    #[error("the section name `{0}` is longer than eight bytes")]
    Name(String),
    /// The file is signed; changing it would break the signature.
    #[error("the file is signed already; give the unsigned one")]
    Signed,
    /// New content does not fit into an existing section.
    #[error("section {name} has room for {room} bytes, not for {size}; use the stub of systemd 254 or later")]
    TooLarge {
        /// The section.
        name: String,
        /// What there is.
        room: u32,
        /// What is needed.
        size: usize,
    },
    /// The file would pass 4 GiB.
    #[error("with section {0} the file passes 4 GiB")]
    Overflow(String),
}

/// A section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// Its name, at most eight bytes.
    pub name: String,
    /// Address in memory relative to the image.
    pub address: u32,
    /// Bytes of content.
    pub size: u32,
    /// Offset in the file.
    pub offset: u32,
    /// Bytes in the file, padding included.
    pub raw_size: u32,
    /// Flags.
    pub characteristics: u32,
}

/// A PE file in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pe {
    bytes: Vec<u8>,
    /// Offset of the COFF header.
    coff: usize,
    /// Offset of the optional header.
    optional: usize,
    /// Offset of the section table.
    table: usize,
    sections: Vec<Section>,
}

impl Pe {
    /// Reads a file.
    pub fn parse(bytes: Vec<u8>) -> Result<Self, PeError> {
        let short = PeError::Format("it is cut short");
        if !bytes.starts_with(b"MZ") {
            return Err(PeError::Format("it does not begin with `MZ`"));
        }
        let signature = u32_at(&bytes, 0x3c).ok_or(short.clone())? as usize;
        if bytes.get(signature..).is_none_or(|rest| !rest.starts_with(b"PE\0\0")) {
            return Err(PeError::Format("there is no PE header"));
        }
        let coff = signature + 4;
        let optional = coff + 20;
        if u16_at(&bytes, coff) != Some(MACHINE_X86_64) {
            return Err(PeError::Format("it is for another machine"));
        }
        if u16_at(&bytes, optional) != Some(MAGIC_PE32_PLUS) {
            return Err(PeError::Format("it is not PE32+"));
        }
        let optional_size = usize::from(u16_at(&bytes, coff + 16).ok_or(short.clone())?);
        // 112 bytes and the first five data directories, of which the fifth is the signature's.
        if optional_size < 112 + 5 * 8 || u32_at(&bytes, optional + 108).is_none_or(|count| count < 5) {
            return Err(PeError::Format("its optional header is too short"));
        }
        let table = optional + optional_size;
        let count = usize::from(u16_at(&bytes, coff + 2).ok_or(short.clone())?);
        let mut sections = Vec::with_capacity(count);
        for index in 0..count {
            let header = bytes.get(table + index * SECTION_HEADER..).and_then(|rest| rest.get(..SECTION_HEADER));
            let header = header.ok_or(short.clone())?;
            let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
            let name = header[..8].split(|byte| *byte == 0).next().unwrap_or_default();
            let section = Section {
                name: String::from_utf8_lossy(name).into_owned(),
                size: word(8),
                address: word(12),
                raw_size: word(16),
                offset: word(20),
                characteristics: word(36),
            };
            let end = u64::from(section.offset) + u64::from(section.raw_size);
            if end > bytes.len() as u64 || u64::from(section.address) + u64::from(section.size) > u64::from(u32::MAX) {
                return Err(PeError::Format("a section lies outside the file"));
            }
            sections.push(section);
        }
        let pe = Self { bytes, coff, optional, table, sections };
        let power = |value: u32, lowest| value.is_power_of_two() && (lowest..=1 << 21).contains(&value);
        if !power(pe.file_alignment(), 1) || !power(pe.section_alignment(), pe.file_alignment()) {
            return Err(PeError::Format("its alignments are impossible"));
        }
        if pe.header_end() > u64::from(pe.word(60)) || u64::from(pe.word(60)) > pe.bytes.len() as u64 {
            return Err(PeError::Format("its section table passes its headers"));
        }
        Ok(pe)
    }

    /// A word of the optional header; `parse` made sure that it is there.
    fn word(&self, at: usize) -> u32 {
        u32_at(&self.bytes, self.optional + at).unwrap_or_default()
    }

    fn set(&mut self, at: usize, value: u32) {
        self.bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }

    fn section_alignment(&self) -> u32 {
        self.word(32)
    }

    fn file_alignment(&self) -> u32 {
        self.word(36)
    }

    /// End of the section table in the file.
    fn header_end(&self) -> u64 {
        (self.table + self.sections.len() * SECTION_HEADER) as u64
    }

    /// The sections in the order of the table.
    pub fn sections(&self) -> &[Section] {
        &self.sections
    }

    /// The section of this name.
    pub fn section(&self, name: &str) -> Option<&Section> {
        self.sections.iter().find(|section| section.name == name)
    }

    /// A section's content, without padding.
    pub fn content(&self, name: &str) -> Option<&[u8]> {
        let section = self.section(name)?;
        let start = section.offset as usize;
        self.bytes.get(start..start + section.size.min(section.raw_size) as usize)
    }

    /// Whether the file carries a signature.
    pub fn is_signed(&self) -> bool {
        self.word(112 + 4 * 8) != 0 || self.word(112 + 4 * 8 + 4) != 0
    }

    /// Whether the program promises to run with memory that is never both writable and executable.
    pub fn nx_compatible(&self) -> bool {
        u16_at(&self.bytes, self.optional + 70).is_some_and(|flags| flags & NX_COMPAT != 0)
    }

    /// Takes that promise back.
    pub fn clear_nx_compatible(&mut self) {
        let at = self.optional + 70;
        let flags = u16_at(&self.bytes, at).unwrap_or_default() & !NX_COMPAT;
        self.bytes[at..at + 2].copy_from_slice(&flags.to_le_bytes());
    }

    /// Makes the file ready to take sections: refuses a signed or misaligned one, drops the symbol table that linkers of
    /// old stubs left at the end, and counts the padding of the headers as part of them.
    pub fn prepare(&mut self) -> Result<(), PeError> {
        if self.is_signed() {
            return Err(PeError::Signed);
        }
        let alignment = self.file_alignment();
        if self.sections.iter().any(|s| !s.offset.is_multiple_of(alignment) || !s.raw_size.is_multiple_of(alignment)) {
            return Err(PeError::Format(
                "its sections are not aligned in the file; use the stub of systemd 254 or later",
            ));
        }
        let data_end = self.sections.iter().map(|s| s.offset as usize + s.raw_size as usize).max().unwrap_or_default();
        let data_end = data_end.max(self.word(60) as usize); // a program may have no section, but it has headers
        let symbols = u32_at(&self.bytes, self.coff + 8).unwrap_or_default() as usize;
        if symbols != 0 {
            if symbols < data_end {
                return Err(PeError::Format("its symbol table is in the middle of the file"));
            }
            self.bytes.truncate(symbols);
            self.set(self.coff + 8, 0);
            self.set(self.coff + 12, 0);
        }
        // Nothing is between the headers and the first section's data, which is aligned.
        let size = self.word(60);
        let first = self.sections.iter().map(|s| s.offset).filter(|offset| *offset > 0).min();
        let padded =
            size.checked_next_multiple_of(alignment).filter(|padded| first.is_none_or(|first| *padded <= first));
        self.set(self.optional + 60, padded.unwrap_or(size));
        Ok(())
    }

    /// Appends a section.
    pub fn append(&mut self, name: &str, content: &[u8], characteristics: u32) -> Result<(), PeError> {
        if name.len() > 8 || name.is_empty() {
            return Err(PeError::Name(name.to_owned()));
        }
        let headers = self.word(60);
        if self.header_end() + SECTION_HEADER as u64 > u64::from(headers) {
            return Err(PeError::NoRoom { name: name.to_owned(), size: headers });
        }
        let overflow = || PeError::Overflow(name.to_owned());
        let (file, memory) = (self.file_alignment(), self.section_alignment());
        let up = |value: usize, to: u32| {
            u32::try_from(value).ok().and_then(|value| value.checked_next_multiple_of(to)).ok_or_else(overflow)
        };
        let last = self.sections.iter().map(|s| s.address as usize + s.size as usize).max().unwrap_or_default();
        let section = Section {
            name: name.to_owned(),
            address: up(last, memory)?,
            size: up(content.len(), 1)?,
            offset: up(self.bytes.len(), file)?,
            raw_size: up(content.len(), file)?,
            characteristics,
        };
        let image_end = up(section.address as usize + section.size as usize, memory)?;
        let file_end = section.offset.checked_add(section.raw_size).ok_or_else(overflow)?;
        let data = self.word(8).checked_add(section.size).ok_or_else(overflow)?;

        self.bytes.resize(section.offset as usize, 0);
        self.bytes.extend_from_slice(content);
        self.bytes.resize(file_end as usize, 0);
        let at = self.table + self.sections.len() * SECTION_HEADER;
        self.bytes[at..at + SECTION_HEADER].fill(0);
        self.bytes[at..at + name.len()].copy_from_slice(name.as_bytes());
        for (offset, value) in [
            (8, section.size),
            (12, section.address),
            (16, section.raw_size),
            (20, section.offset),
            (36, section.characteristics),
        ] {
            self.set(at + offset, value);
        }
        self.sections.push(section);
        // A table of more than 65535 sections does not fit into headers of 32 bits.
        let count = u16::try_from(self.sections.len()).map_err(|_| overflow())?;
        self.bytes[self.coff + 2..self.coff + 4].copy_from_slice(&count.to_le_bytes());
        self.set(self.optional + 8, data);
        self.set(self.optional + 56, image_end);
        self.set(self.optional + 64, 0); // The checksum is not used by UEFI; zero says that there is none.
        Ok(())
    }

    /// Replaces the content of a section, in the space that it has.
    pub fn replace(&mut self, name: &str, content: &[u8]) -> Result<(), PeError> {
        let Some(index) = self.sections.iter().position(|section| section.name == name) else {
            return self.append(name, content, DATA);
        };
        let section = self.sections[index].clone();
        // Neither past its part of the file nor, where sections are packed tightly, into the next one in memory.
        let next = self.sections.iter().map(|s| s.address).filter(|address| *address > section.address).min();
        let room = next.map_or(section.raw_size, |next| section.raw_size.min(next - section.address));
        let size = u32::try_from(content.len()).ok().filter(|size| *size <= room);
        let size = size.ok_or_else(|| PeError::TooLarge { name: name.to_owned(), room, size: content.len() })?;
        let space = &mut self.bytes[section.offset as usize..][..section.raw_size as usize];
        space.fill(0);
        space[..content.len()].copy_from_slice(content);
        self.sections[index].size = size;
        self.set(self.table + index * SECTION_HEADER + 8, size);
        self.set(self.optional + 64, 0);
        Ok(())
    }

    /// The file.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// The file.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Headers and sections as text for people and for snapshots.
    pub fn dump(&self) -> String {
        let mut text = format!(
            "image {:#x}, headers {:#x}, alignment {:#x} in memory, {:#x} in the file, {}{}\n",
            self.word(56),
            self.word(60),
            self.section_alignment(),
            self.file_alignment(),
            if self.is_signed() { "signed" } else { "unsigned" },
            if self.nx_compatible() { ", nx" } else { "" },
        );
        for Section { name, address, size, offset, raw_size, characteristics } in &self.sections {
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "{name:<8} {size:>10} bytes at {address:#010x}, file {offset:#010x} +{raw_size:#010x}, {characteristics:#010x}"
            );
        }
        text
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A small EFI program with `.text` and `.sbat` and room for so many more section headers.
    pub fn program(free_slots: usize) -> Vec<u8> {
        let table = 0x40 + 24 + 240;
        let headers = (table + (2 + free_slots) * SECTION_HEADER).next_multiple_of(8);
        let first = headers.next_multiple_of(512);
        let mut bytes = vec![0; first];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, b"MZ");
        put(0x3c, &0x40u32.to_le_bytes());
        put(0x40, b"PE\0\0");
        put(0x44, &MACHINE_X86_64.to_le_bytes());
        put(0x46, &2u16.to_le_bytes());
        put(0x54, &240u16.to_le_bytes());
        let optional = 0x58;
        put(optional, &MAGIC_PE32_PLUS.to_le_bytes());
        let size = u32::try_from(headers).unwrap();
        for (at, value) in [(32, 4096u32), (36, 512), (56, 0x3000), (60, size), (68, 0x0100_000a), (108, 16)] {
            put(optional + at, &value.to_le_bytes());
        }
        for (index, (name, content)) in [(b".text\0\0\0", 0x90), (b".sbat\0\0\0", b'x')].into_iter().enumerate() {
            let at = table + index * SECTION_HEADER;
            let number = u32::try_from(index).unwrap();
            let offset = u32::try_from(first).unwrap() + number * 512;
            bytes[at..at + 8].copy_from_slice(name);
            for (field, value) in [(8, 100), (12, (number + 1) * 4096), (16, 512), (20, offset), (36, DATA)] {
                bytes[at + field..at + field + 4].copy_from_slice(&value.to_le_bytes());
            }
            bytes.extend(std::iter::repeat_n(content, 100));
            bytes.resize(bytes.len().next_multiple_of(512), 0);
        }
        bytes
    }

    #[test]
    fn sections_are_appended_and_replaced() {
        let mut pe = Pe::parse(program(4)).unwrap();
        pe.prepare().unwrap();
        pe.append(".one", &[1; 5000], DATA).unwrap();
        pe.append(".two", b"2", CODE).unwrap();
        pe.replace(".sbat", b"sbat,1").unwrap();
        let read = Pe::parse(pe.bytes().to_vec()).unwrap();
        assert_eq!(read.sections(), pe.sections());
        assert_eq!(read.content(".one").unwrap(), [1; 5000]);
        assert_eq!(read.content(".two").unwrap(), b"2");
        assert_eq!(read.content(".sbat").unwrap(), b"sbat,1");
        assert_eq!(read.content(".text").unwrap(), [0x90; 100]);
        let error = pe.replace(".text", &[0; 513]).unwrap_err();
        assert!(matches!(error, PeError::TooLarge { room: 512, size: 513, .. }));
        let sbat = pe.table + SECTION_HEADER;
        pe.set(sbat + 12, 4096 + 200);
        let error = Pe::parse(pe.bytes().to_vec()).unwrap().replace(".text", &[0; 201]).unwrap_err();
        assert!(matches!(error, PeError::TooLarge { room: 200, size: 201, .. }));
        insta::assert_snapshot!(read.dump());
    }

    #[test]
    fn full_headers_are_refused_with_a_hint() {
        let mut pe = Pe::parse(program(0)).unwrap();
        // Without `prepare` the padding of the headers is not used.
        let error = pe.append(".one", b"", DATA).unwrap_err();
        assert!(error.to_string().contains("systemd 254"), "{error}");
        pe.prepare().unwrap();
        while pe.append(".more", b"", DATA).is_ok() {}
        assert!(Pe::parse(pe.into_bytes()).is_ok());
    }

    #[test]
    fn a_symbol_table_at_the_end_is_dropped() {
        let mut bytes = program(4);
        let end = u32::try_from(bytes.len()).unwrap();
        bytes[0x44 + 8..0x44 + 12].copy_from_slice(&end.to_le_bytes());
        bytes.extend([7; 33]);
        let mut pe = Pe::parse(bytes).unwrap();
        pe.prepare().unwrap();
        assert_eq!(pe.bytes().len(), end as usize);
        assert_eq!(u32_at(pe.bytes(), 0x44 + 8), Some(0));
    }

    #[test]
    fn a_signed_file_is_refused() {
        let mut bytes = program(4);
        bytes[0x58 + 112 + 32] = 1;
        assert_eq!(Pe::parse(bytes).unwrap().prepare(), Err(PeError::Signed));
    }

    proptest! {
        #[test]
        fn any_change_is_parsed_or_refused(at in 0usize..900, value in any::<u8>(), length in 0usize..3000) {
            let mut bytes = program(3);
            bytes[at] = value;
            bytes.truncate(length.max(at + 1));
            if let Ok(mut pe) = Pe::parse(bytes) {
                let _ = pe.dump();
                let _ = pe.content(".text");
                if pe.prepare().is_ok() {
                    let _ = pe.append(".new", &[1; 700], DATA);
                    let _ = pe.replace(".sbat", &[1; 70]);
                }
            }
        }
    }
}
