//! The screen of a guest: `"1280x800"`.

use serde::Deserialize;

/// The size of a screen in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Display {
    /// Its width.
    pub width: u32,
    /// Its height.
    pub height: u32,
}

impl TryFrom<String> for Display {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let side = |text: &str| text.parse::<u32>().ok().filter(|side| (320..=4096).contains(side));
        text.split_once('x')
            .and_then(|(width, height)| Some(Self { width: side(width)?, height: side(height)? }))
            .ok_or_else(|| format!("{text:?} is not the size of a screen, such as \"1280x800\", from 320 to 4096"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_two_sides_within_bounds() {
        assert_eq!(Display::try_from("1280x800".to_owned()), Ok(Display { width: 1280, height: 800 }));
        for wrong in ["1280", "1280x", "x800", "1280x800x2", "100x100", "9999x800", "-640x480", ""] {
            assert!(Display::try_from(wrong.to_owned()).unwrap_err().contains("1280x800"), "{wrong}");
        }
    }
}
