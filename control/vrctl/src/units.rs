//! Numbers as people read them: counts with separators, bytes, durations, rates and shares.

/// A count with thousands set apart: `1,234,567`.
pub(crate) fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Bytes in binary units: `1.5 MiB`.
#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
pub(crate) fn bytes(value: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if value < 1024 {
        return format!("{value} B");
    }
    let mut scaled = value as f64 / 1024.0;
    let mut unit = 0;
    while scaled >= 1024.0 && unit + 1 < UNITS.len() {
        scaled /= 1024.0;
        unit += 1;
    }
    format!("{scaled:.1} {}", UNITS[unit])
}

/// A rate in decimal units: `1.50 M`, to which the caller adds what it counts.
fn rate(per_second: f64) -> String {
    const UNITS: [&str; 5] = ["", " k", " M", " G", " T"];
    let mut scaled = per_second;
    let mut unit = 0;
    while scaled >= 1000.0 && unit + 1 < UNITS.len() {
        scaled /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{scaled:.0}") } else { format!("{scaled:.2}{}", UNITS[unit]) }
}

/// A rate in whole units; `-` while it is not known.
#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
pub(crate) fn optional_rate(per_second: Option<u64>) -> String {
    per_second.map_or_else(String::new, |value| rate(value as f64))
}

/// A duration to two units: `3d 4h`, `2m 5s`, `350ms`.
pub(crate) fn milliseconds(value: u64) -> String {
    const UNITS: [(u64, &str); 4] =
        [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1000, "s")];
    if value < 1000 {
        return format!("{value}ms");
    }
    let mut rest = value;
    let mut parts = Vec::new();
    for (length, name) in UNITS {
        if rest >= length && parts.len() < 2 {
            parts.push(format!("{}{name}", rest / length));
            rest %= length;
        } else if !parts.is_empty() {
            break;
        }
    }
    parts.join(" ")
}

/// A share in percent with one decimal.
pub(crate) fn percent(part: u64, whole: u64) -> String {
    match whole {
        0 => "-".to_owned(),
        _ => format!("{:.1} %", ratio(part, whole) * 100.0),
    }
}

/// `part / whole`, and 0 if there is no whole.
#[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
pub(crate) fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_grouped_by_thousands() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1000), "1,000");
        assert_eq!(count(u64::MAX), "18,446,744,073,709,551,615");
    }

    #[test]
    fn bytes_are_binary_and_rates_decimal() {
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(u64::MAX), "16.0 EiB");
        assert_eq!(rate(999.0), "999");
        assert_eq!(rate(1_500_000.0), "1.50 M");
    }

    #[test]
    fn durations_have_at_most_two_units() {
        assert_eq!(milliseconds(350), "350ms");
        assert_eq!(milliseconds(125_000), "2m 5s");
        assert_eq!(milliseconds(86_400_000), "1d");
        assert_eq!(milliseconds(90_061_000), "1d 1h");
        assert_eq!(milliseconds(86_405_000), "1d");
    }

    #[test]
    fn a_share_of_nothing_is_no_number() {
        assert_eq!(percent(1, 0), "-");
        assert_eq!(percent(1, 8), "12.5 %");
    }
}
