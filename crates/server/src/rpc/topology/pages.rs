//! Pages of named objects.

use berth_proto::error::ApiError;
use prost::Message;

/// Objects of a page where the caller does not say.
const PAGE_SIZE_DEFAULT: u32 = 100;
/// Most objects of a page.
const PAGE_SIZE_MAX: u32 = 1_000;

/// Bytes of a page's objects: one that is long, such as a scope with many hubs, still makes an answer that fits.
const PAGE_BYTES_MAX: usize = 2 * 1024 * 1024;

/// A page of named objects in their order; the token is the last name of the page before.
pub(in crate::rpc) fn page<'a, T: 'a, M: Message>(
    all: impl Iterator<Item = (&'a str, &'a T)>,
    size: u32,
    token: &str,
    takes: impl Fn(&T) -> bool,
    message: impl Fn(&T) -> M,
) -> Result<(Vec<M>, String), ApiError> {
    let size = page_size(size, (PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX))?;
    let (mut objects, mut bytes) = (Vec::new(), 0);
    let mut last = "";
    for (name, object) in all.filter(|(name, object)| *name > token && takes(object)) {
        if objects.len() == size as usize || bytes >= PAGE_BYTES_MAX {
            return Ok((objects, last.to_owned()));
        }
        let object = message(object);
        bytes += object.encoded_len();
        objects.push(object);
        last = name;
    }
    Ok((objects, String::new()))
}

/// The size of a page as asked for; 0 is the default.
pub(in crate::rpc) fn page_size(asked: u32, (default, max): (u32, u32)) -> Result<u32, ApiError> {
    match asked {
        0 => Ok(default),
        size if size <= max => Ok(size),
        size => Err(ApiError::invalid("page_size", format_args!("{size}; 1 to {max} are allowed"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pages(size: u32) -> Vec<Vec<u32>> {
        let names = ["a", "b", "c", "d", "e"];
        let values = [1u32, 2, 3, 4, 5];
        let (mut token, mut pages) = (String::new(), Vec::new());
        loop {
            let all = names.iter().copied().zip(&values);
            let (found, next) = page(all, size, &token, |value| *value != 3, |value| *value).unwrap();
            pages.push(found);
            if next.is_empty() {
                return pages;
            }
            token = next;
        }
    }

    #[test]
    fn pages_cover_everything_once() {
        assert_eq!(pages(2), [vec![1, 2], vec![4, 5]]);
        assert_eq!(pages(3), [vec![1, 2, 4], vec![5]]);
        assert_eq!(pages(1_000), [vec![1, 2, 4, 5]]);
    }

    #[test]
    fn a_page_of_long_objects_is_shorter() {
        let all = [("a", &1), ("b", &2), ("c", &3)].into_iter();
        let long = |_: &u32| "x".repeat(PAGE_BYTES_MAX * 2 / 3);
        let (found, next) = page(all, 3, "", |_| true, long).unwrap();
        assert_eq!((found.len(), next.as_str()), (2, "b"));
    }

    #[test]
    fn a_page_size_past_the_bound_is_refused() {
        let error = page([("a", &1)].into_iter(), 1_001, "", |_| true, |n: &i32| *n).unwrap_err();
        assert!(error.to_string().contains("1001; 1 to 1000"), "{error}");
    }
}
