//! Bytes as people write and read them.

/// Bytes as people write them: `600MiB`, `1.5 GiB`, `200MB`, `4096`.
///
/// # Errors
/// Says what was expected.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let at = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let unit: f64 = match text[at..].to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "k" | "kib" => 1024.0,
        "m" | "mib" => 1048576.0,
        "g" | "gib" => 1073741824.0,
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        _ => f64::NAN,
    };
    match text[..at].trim().parse::<f64>().map(|n| n * unit) {
        Ok(n) if n.is_finite() && n >= 1.0 => Ok(n as u64),
        _ => Err(format!("expected bytes as 600MiB or 1.5GiB, found {text:?}")),
    }
}

/// Bytes for people: two or three digits in MiB or GiB.
pub(crate) fn show_bytes(bytes: u64) -> String {
    match bytes as f64 / 1048576.0 {
        m if m < 0.05 => format!("{bytes} bytes"),
        m if m < 10.0 => format!("{m:.1} MiB"),
        m if m < 10240.0 => format!("{m:.0} MiB"),
        m => format!("{:.1} GiB", m / 1024.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_read_as_people_write_them() {
        let read = |s: &str| parse_bytes(s).unwrap();
        assert_eq!(
            [read("600MiB"), read("1.5 GiB"), read("200MB"), read("4096")],
            [629145600, 1610612736, 200000000, 4096]
        );
        assert_eq!(read("2g"), 2 << 30);
        for bad in ["", "MiB", "-1", "12 parsecs", "0", "nan", "infGB"] {
            assert!(parse_bytes(bad).unwrap_err().contains("600MiB"), "{bad}");
        }
        assert_eq!(
            [show_bytes(1 << 20), show_bytes(600 << 20), show_bytes(20 << 30)],
            ["1.0 MiB", "600 MiB", "20.0 GiB"]
        );
    }
}
