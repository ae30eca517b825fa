//! Times as texts.
#![allow(unsafe_code, reason = "neither std nor rustix knows time zones")]

/// Takes a time as in OpenSSH's `expiry-time=`: `YYYYMMDD[HHMM[SS]]`, followed by `Z` or `UTC` for universal time, else in the server's time zone (`TZ` or
/// `/etc/localtime`). Gives seconds since 1970.
pub(crate) fn parse(text: &str) -> Option<i64> {
    let upper = text.to_ascii_uppercase();
    let (digits, universal) = match upper.strip_suffix('Z').or_else(|| upper.strip_suffix("UTC")) {
        Some(digits) => (digits, true),
        None => (upper.as_str(), false),
    };
    if !matches!(digits.len(), 8 | 12 | 14) || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    // A field past the end is 0.
    let field = |start: usize, end: usize| digits.get(start..end).unwrap_or("0").parse::<i32>().ok();
    let (year, month, day) = (field(0, 4)?, field(4, 6)?, field(6, 8)?);
    let (hour, minute, second) = (field(8, 10)?, field(10, 12)?, field(12, 14)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    // SAFETY: all zeroes is a valid `tm`: numbers, and a null pointer for the zone's name.
    let mut time: libc::tm = unsafe { std::mem::zeroed() };
    (time.tm_year, time.tm_mon, time.tm_mday) = (year - 1900, month - 1, day);
    (time.tm_hour, time.tm_min, time.tm_sec) = (hour, minute, second);
    // Whether it is summer then is for the zone's rules to say.
    time.tm_isdst = -1;
    // SAFETY: both functions take a pointer to a live `tm`, which they may write to, and keep nothing of it. `mktime`
    // reads the environment, which this process never changes.
    let seconds = unsafe { if universal { libc::timegm(&mut time) } else { libc::mktime(&mut time) } };
    #[allow(clippy::useless_conversion, reason = "the libc crate's time_t has 32 bits on some targets")]
    // -1 stands for a time that cannot be told, or for the last second of 1969, which no key needs.
    (seconds != -1).then(|| seconds.into())
}

/// Takes a time of RFC 3339, such as `2026-02-28T12:34:56.789Z`. Gives whole seconds since 1970.
pub(crate) fn parse_rfc3339(text: &str) -> Option<i64> {
    let (time, rest) = text.split_at_checked(19)?;
    let separated = time.bytes().enumerate().all(|(index, byte)| match index {
        4 | 7 => byte == b'-',
        10 => matches!(byte, b'T' | b't' | b' '),
        13 | 16 => byte == b':',
        _ => byte.is_ascii_digit(),
    });
    let fraction = rest.strip_prefix('.').map(|rest| rest.trim_start_matches(|c: char| c.is_ascii_digit()));
    let offset = match fraction.unwrap_or(rest).as_bytes() {
        b"Z" | b"z" => 0,
        [sign @ (b'+' | b'-'), a, b, b':', c, d] if [a, b, c, d].into_iter().all(u8::is_ascii_digit) => {
            let number = |tens: &u8, ones: &u8| i64::from(tens - b'0') * 10 + i64::from(ones - b'0');
            let seconds = (number(a, b) * 60 + number(c, d)) * 60;
            if *sign == b'-' { -seconds } else { seconds }
        }
        _ => return None,
    };
    let digits: String = time.chars().filter(char::is_ascii_digit).collect();
    if separated { Some(parse(&format!("{digits}Z"))? - offset) } else { None }
}

/// The time of RFC 3339 in UTC, of seconds since 1970 and what follows them, in `digits` digits.
pub(crate) fn rfc3339(seconds: u64, fraction: u32, digits: usize) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{fraction:0digits$}Z")
}

/// Year, month and day of a number of days since 1970-01-01. Counts in years from March, so that a leap day is the last.
fn civil(days: u64) -> (u64, u64, u64) {
    const ERA: u64 = 146_097; // days in 400 years
    let days = days + 719_468; // from 0000-03-01
    let (era, of_era) = (days / ERA, days % ERA);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::{parse, parse_rfc3339, rfc3339};

    #[test]
    fn universal_time_is_told_to_the_second() {
        assert_eq!(parse("19700101Z"), Some(0));
        assert_eq!(parse("20260228UTC"), Some(1_772_236_800));
        assert_eq!(parse("202602281234z"), Some(1_772_282_040));
        assert_eq!(parse("20260228123456Z"), Some(1_772_282_096));
        assert_eq!(parse("20380119031408Z"), Some(1 << 31));
    }

    #[test]
    fn local_time_is_that_of_date() {
        for (text, date) in [("20260228", "2026-02-28"), ("20260701123456", "2026-07-01 12:34:56")] {
            let judge = std::process::Command::new("date").args(["-d", date, "+%s"]).output().unwrap();
            assert_eq!(parse(text).unwrap().to_string(), String::from_utf8(judge.stdout).unwrap().trim_end(), "{text}");
        }
    }

    #[test]
    fn other_forms_are_refused() {
        for text in [
            "",
            "Z",
            "UTC",
            "2026",
            "2026022",
            "202602281",
            "2026022812345Z",
            "2026-02-28",
            "20261328",
            "20260200",
            "20260232",
            "202602282400",
            "202602281260",
            "+2260228",
            "20260228 Z",
            "forever",
            "２０２６0228",
        ] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn times_of_rfc_3339_have_a_zone_and_may_have_a_fraction() {
        assert_eq!(parse_rfc3339("2026-02-28T12:34:56Z"), Some(1_772_282_096));
        assert_eq!(parse_rfc3339("2026-02-28t12:34:56.789z"), Some(1_772_282_096));
        assert_eq!(parse_rfc3339("2026-02-28 14:04:56+01:30"), Some(1_772_282_096));
        assert_eq!(parse_rfc3339("2026-02-28T11:34:56-01:00"), Some(1_772_282_096));
        for text in ["", "2026-02-28", "2026-02-28T12:34:56", "2026-02-28T12:34:56+1:00", "2026-02-28T25:34:56Z", "é"]
        {
            assert_eq!(parse_rfc3339(text), None, "{text:?}");
        }
    }

    #[test]
    fn times_are_written_as_rfc_3339() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.007Z"),
            (951_782_400, "2000-02-29T00:00:00.007Z"),
            (1_709_251_199, "2024-02-29T23:59:59.007Z"),
            (1_795_521_845, "2026-11-24T12:04:05.007Z"),
        ] {
            assert_eq!(rfc3339(seconds, 7, 3), text);
        }
        assert_eq!(rfc3339(0, 7, 6), "1970-01-01T00:00:00.000007Z");
    }
}
