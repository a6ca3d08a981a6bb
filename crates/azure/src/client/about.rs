//! Whether an answer is about what was asked for. A service, or something before it, that answers one question with the
//! answer to another would move one device by what is true of the other.

use std::fmt::Display;

/// Longest ID of another thing that an error repeats whole, in characters: of a longer one as many stand as tell it from
/// others, since what a service puts there may be anything, a signature that it was shown among it.
const TOLD_CHARS_MAX: usize = 20;
/// What stands of a longer one, in characters.
const BEGINNING_CHARS: usize = 4;

/// Compares as names of this kind compare: DPS's without regard to case, a hub's with it.
pub(crate) fn same<I: PartialEq + Display>(asked: &I, told: &I) -> Result<(), String> {
    if asked == told { Ok(()) } else { Err(other(asked, told)) }
}

/// What is said where an answer is about another.
pub(crate) fn other(asked: &impl Display, told: &impl Display) -> String {
    let told = told.to_string();
    let count = told.chars().count();
    let shown = match count <= TOLD_CHARS_MAX {
        true => format!("`{told}`"),
        false => {
            let beginning: String = told.chars().take(BEGINNING_CHARS).collect();
            format!("`{beginning}…` ({count} characters)")
        }
    };
    format!("it is about {shown}, and `{asked}` was asked for")
}
