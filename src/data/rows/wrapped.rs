//! Rows in an array that is the value of a key, as many tools export them: `{"version": 1, "data": [{…}, {…}]}`.

/// The keys that hold rows.
const KEYS: [&str; 9] = ["data", "train", "rows", "examples", "instances", "samples", "records", "items", "results"];

/// The key of the array of rows in an object that begins with these bytes, and the byte at which the array opens. `None`
/// where the bytes are a row: one that ends before another begins, or one without such a key in what is at hand.
pub(crate) fn find(bytes: &[u8]) -> Option<(String, usize)> {
    if value(bytes, 0).is_some_and(|end| blank(bytes, end) < bytes.len()) {
        // It is no object alone: further rows follow.
        return None;
    }
    let mut at = 1;
    loop {
        at = blank(bytes, at);
        let behind = value(bytes, at).filter(|_| bytes.get(at) == Some(&b'"'))?;
        let key = std::str::from_utf8(&bytes[at + 1..behind - 1]).ok()?;
        at = blank(bytes, behind);
        (bytes.get(at) == Some(&b':')).then_some(())?;
        at = blank(bytes, at + 1);
        let rows = bytes.get(at) == Some(&b'[') && bytes.get(blank(bytes, at + 1)) == Some(&b'{');
        if rows && KEYS.contains(&key) {
            return Some((key.to_string(), at));
        }
        at = blank(bytes, value(bytes, at)?);
        (bytes.get(at) == Some(&b',')).then_some(())?;
        at += 1;
    }
}

fn blank(bytes: &[u8], at: usize) -> usize {
    bytes[at.min(bytes.len())..].iter().position(|b| !b.is_ascii_whitespace()).map_or(bytes.len(), |n| at + n)
}

/// Where the value ends that begins at `at`; `None` where it goes on behind the bytes.
fn value(bytes: &[u8], at: usize) -> Option<usize> {
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    for (i, byte) in bytes.iter().enumerate().skip(at) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => {
                in_string = !in_string;
                if !in_string && depth == 0 {
                    return Some(i + 1);
                }
            }
            _ if in_string => {}
            b'{' | b'[' => depth += 1,
            b'}' | b']' if depth == 0 => return Some(i),
            b'}' | b']' => {
                depth -= 1;
                if depth == 0 {
                    return Some(i + 1);
                }
            }
            b',' if depth == 0 => return Some(i),
            _ => {}
        }
    }
    None
}
