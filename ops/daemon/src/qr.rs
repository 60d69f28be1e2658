//! A QR code out of characters. Pure.

use qrcode::render::unicode::Dense1x2;
use qrcode::{EcLevel, QrCode};

/// `text` as a QR code for a dark terminal: two dots in each character, with the bright margin that
/// cameras need. `None` when the text is too long for one.
pub fn qr(text: &str) -> Option<String> {
    // A screen has no scratches: the lowest level makes the fewest dots.
    let code = QrCode::with_error_correction_level(text, EcLevel::L).ok()?;
    let dark_on_bright = (Dense1x2::Light, Dense1x2::Dark);
    Some(code.render().dark_color(dark_on_bright.0).light_color(dark_on_bright.1).build())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_a_square_with_a_margin() {
        let code = qr("sealpost-kit:alice").unwrap();
        let lines: Vec<_> = code.lines().collect();
        let width = lines[0].chars().count();
        assert!(lines.iter().all(|line| line.chars().count() == width));
        assert!(lines.len() * 2 >= width && lines.len() * 2 <= width + 1);
        assert!(lines[0].chars().all(|c| c == '█'), "{code}");
        assert_eq!(qr(&"a".repeat(5000)), None);
    }
}
