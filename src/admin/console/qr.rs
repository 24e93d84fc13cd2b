//! A QR code as numbers for an SVG: the address that a phone opens. Pure.

use qrcode::{Color, QrCode};

/// Light modules around the code: scanners need four (ISO/IEC 18004).
const QUIET: usize = 4;

/// A code for the macro `ui::qr`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::admin) struct Qr {
    /// Modules in a row, with the quiet zone.
    pub(in crate::admin) width: usize,
    /// The dark modules: a run in a row is a rectangle.
    pub(in crate::admin) path: String,
}

impl Qr {
    /// None: the text is too long for a code.
    pub(in crate::admin) fn new(text: &str) -> Option<Self> {
        let code = QrCode::new(text).ok()?;
        let width = code.width();
        let colors = code.to_colors();
        let mut path = String::new();
        for (y, row) in colors.chunks(width).enumerate() {
            let mut x = 0;
            for run in row.chunk_by(|a, b| a == b) {
                if run.first() == Some(&Color::Dark) {
                    let (x, y, len) = (x + QUIET, y + QUIET, run.len());
                    path.push_str(&format!("M{x} {y}h{len}v1h-{len}z"));
                }
                x += run.len();
            }
        }
        Some(Self {
            width: width + 2 * QUIET,
            path,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every dark module is drawn once, and nothing else is.
    #[test]
    fn the_path_draws_the_dark_modules() {
        let text = "https://microsoft.com/devicelogin";
        let code = QrCode::new(text).unwrap();
        let qr = Qr::new(text).unwrap();
        let mut drawn = vec![vec![Color::Light; qr.width]; qr.width];
        for run in qr.path.split_terminator('z') {
            let (place, lines) = run.trim_start_matches('M').split_once('h').unwrap();
            let (x, y) = place.split_once(' ').unwrap();
            let (x, y): (usize, usize) = (x.parse().unwrap(), y.parse().unwrap());
            let (len, back) = lines.split_once("v1h-").unwrap();
            assert_eq!(len, back);
            let len: usize = len.parse().unwrap();
            for module in &mut drawn[y][x..x + len] {
                assert_eq!(*module, Color::Light, "twice at {x} {y}");
                *module = Color::Dark;
            }
        }
        let inner = drawn[QUIET..qr.width - QUIET].iter();
        let inner: Vec<Color> = inner
            .flat_map(|row| row[QUIET..qr.width - QUIET].to_vec())
            .collect();
        assert_eq!(inner, code.to_colors());
        assert_eq!(qr.width, code.width() + 8);
    }

    #[test]
    fn a_text_too_long_has_no_code() {
        assert_eq!(Qr::new(&"x".repeat(3000)), None);
    }
}
