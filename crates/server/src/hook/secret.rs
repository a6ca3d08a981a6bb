//! The secret by which DPS is known: kept in a file or a variable, read with each call, so that a changed one is taken
//! up at once, and compared in a time that tells nothing.

use std::sync::Arc;

use berth_azure::{CredentialError, KeySource, Secret};
use parking_lot::Mutex;

/// Secrets that are accepted at once: the old one and the new one while they are exchanged, and as many for others.
pub const SECRETS_MAX: usize = 4;
/// Shortest secret, in characters: shorter ones can be guessed at the rate at which calls are answered.
pub const SECRET_CHARS_MIN: usize = 16;
/// Longest secret, in characters: it stands in a URL.
pub const SECRET_CHARS_MAX: usize = 256;

/// What a call told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    /// One of the secrets.
    Right,
    /// None of them, or nothing.
    Wrong,
    /// Nobody can say: there is no secret to compare it with.
    Unreadable,
}

/// The secrets of the hook.
#[derive(Debug)]
pub(super) struct HookSecret {
    source: KeySource,
    /// What was last wrong with the source: told once, not with each call.
    problem: Arc<Mutex<Option<String>>>,
}

impl HookSecret {
    /// Secrets in `source`, one a line. It is read now, so that the log says at once what is wrong with it.
    pub(super) fn new(source: KeySource) -> Self {
        let secret = Self { source, problem: Arc::default() };
        note(&secret.problem, secrets(&secret.source).err());
        secret
    }

    /// Compares what a call told with each of the secrets, all of them in any case.
    pub(super) async fn check(&self, told: Option<String>) -> Told {
        let (source, problem) = (self.source.clone(), Arc::clone(&self.problem));
        // A file may lie on a disk that hangs.
        let checked = tokio::task::spawn_blocking(move || {
            let held = match secrets(&source) {
                Ok(held) => held,
                Err(error) => {
                    note(&problem, Some(error));
                    return Told::Unreadable;
                }
            };
            note(&problem, None);
            let Some(told) = told.map(Secret::new) else { return Told::Wrong };
            match held.iter().fold(false, |right, secret| right | secret.is(told.expose())) {
                true => Told::Right,
                false => Told::Wrong,
            }
        });
        checked.await.unwrap_or(Told::Unreadable)
    }
}

fn note(last: &Mutex<Option<String>>, error: Option<CredentialError>) {
    let problem = error.map(|error| error.to_string());
    let mut last = last.lock();
    if *last == problem {
        return;
    }
    match &problem {
        Some(problem) => tracing::warn!(%problem, "the allocation hook has no secret and refuses all calls"),
        None => tracing::info!("the allocation hook has a secret again"),
    }
    *last = problem;
}

fn secrets(source: &KeySource) -> Result<Vec<Secret>, CredentialError> {
    let text = source.read()?;
    let lines = text.expose().lines().map(str::trim).filter(|line| !line.is_empty());
    let mut found = Vec::with_capacity(SECRETS_MAX);
    for line in lines {
        if found.len() == SECRETS_MAX {
            let problem = format!("has more than {SECRETS_MAX} lines; each is a secret");
            return Err(CredentialError::new(source, problem));
        }
        if !(SECRET_CHARS_MIN..=SECRET_CHARS_MAX).contains(&line.chars().count()) {
            let problem = format!(
                "has a line that is no secret: those have {SECRET_CHARS_MIN} to {SECRET_CHARS_MAX} characters"
            );
            return Err(CredentialError::new(source, problem));
        }
        found.push(Secret::new(line.to_owned()));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "an-old-secret-0123456789";
    const NEW: &str = "a/new+secret=0123456789";

    #[tokio::test]
    async fn several_are_accepted_and_the_file_is_read_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        let secret = HookSecret::new(KeySource::File(path.clone()));
        let check = async |told: &str| secret.check(Some(told.to_owned())).await;
        assert_eq!(check(OLD).await, Told::Unreadable);
        std::fs::write(&path, format!("{OLD}\n")).unwrap();
        assert_eq!((check(OLD).await, check(NEW).await), (Told::Right, Told::Wrong));
        std::fs::write(&path, format!(" {OLD} \n\n{NEW}\n")).unwrap();
        assert_eq!((check(OLD).await, check(NEW).await), (Told::Right, Told::Right));
        std::fs::write(&path, NEW).unwrap();
        assert_eq!((check(OLD).await, check(NEW).await), (Told::Wrong, Told::Right));
        assert_eq!(secret.check(None).await, Told::Wrong);
        assert_eq!(check("").await, Told::Wrong);
        assert_eq!(check(&NEW[1..]).await, Told::Wrong);
    }

    #[tokio::test]
    async fn what_is_no_secret_accepts_nothing_and_is_not_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        let five: Vec<String> = (0..5).map(|n| format!("{OLD}-{n}")).collect();
        for text in
            ["short".to_owned(), "\n".to_owned(), five.join("\n"), format!("{OLD}\nshort"), "x".repeat(257)]
        {
            std::fs::write(&path, &text).unwrap();
            let source = KeySource::File(path.clone());
            let problem = secrets(&source).unwrap_err().to_string();
            assert!(!problem.contains(OLD) && !problem.contains("short"), "{problem}");
            let told = text.lines().next().unwrap_or_default().to_owned();
            assert_eq!(HookSecret::new(source).check(Some(told)).await, Told::Unreadable, "{text}");
        }
    }
}
