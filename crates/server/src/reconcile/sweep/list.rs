//! Listing one place, page by page; what is odd is verified before the next page.

use berth_core::{DeviceId, Hub, Scope};
use futures_util::future::BoxFuture;

use super::super::Trouble;
use super::super::budget::{Place, rate_of_hub_queries, rate_of_scope};
use super::super::finding::PROBLEM_BYTES_MAX;
use super::super::listing::Listing;
use super::compare::{self, Suspect};
use super::pace::{At, Patience, Stop};
use super::run::Run;
use super::seen::{Listed, hash};

/// Pages of one listing: with full ones, ten times the largest hub (IoT Hub, quotas).
const PAGES_MAX: u32 = 10_000;
/// Groups of one DPS instance: 100 of each attestation are allowed (DPS, quotas and limits).
const GROUPS_MAX: usize = 1_000;
/// Odd devices that wait until a page has been read to its end and more come with it; then they are verified first.
const SUSPECTS_MAX: usize = 1_000;

impl Run {
    /// Lists a place, and gives the hashes of what it showed.
    pub(super) async fn list(&self, place: Listed) -> Result<Vec<u64>, Stop> {
        let snapshot = self.inner.directory.newest();
        match place {
            Listed::Scope(no) => match snapshot.topology().scope(no) {
                Some(scope) => self.list_scope(scope).await,
                None => Err(Stop::Gap("the scope was deleted".to_owned())),
            },
            Listed::Hub(no) => match snapshot.topology().hub(no) {
                Some(hub) => self.list_hub(hub).await,
                None => Err(Stop::Gap("the hub was deleted".to_owned())),
            },
        }
    }

    async fn list_hub(&self, hub: &Hub) -> Result<Vec<u64>, Stop> {
        let place = Listed::Hub(hub.no);
        let name = hub.name.as_str();
        let at = At { place: Place::HubQueries(hub.no), name, per_minute: rate_of_hub_queries(hub) };
        let (mut shown, mut cursor) = (Shown::default(), None);
        for _ in 0..PAGES_MAX {
            let ask = || self.inner.authority.identities(&hub.name, cursor.as_ref());
            let page = self.page(place, at, "query identities", ask).await?;
            let snapshot = self.inner.directory.newest();
            for row in page.rows {
                let mapping = snapshot.device(&row.device).map_err(damaged)?;
                shown.hashes.push(hash(self.seed, place, row.device.as_str()));
                shown.suspects.extend(compare::identity(hub.no, &row, mapping.as_ref()));
            }
            cursor = page.next;
            self.look_at(&mut shown, cursor.is_none()).await?;
            if cursor.is_none() {
                return Ok(shown.hashes);
            }
        }
        Err(endless())
    }

    async fn list_scope(&self, scope: &Scope) -> Result<Vec<u64>, Stop> {
        let mut shown = Shown::default();
        self.list_enrollments(scope, &mut shown).await?;
        for group in self.groups(scope).await? {
            self.list_registrations(scope, &group, &mut shown).await?;
        }
        Ok(shown.hashes)
    }

    async fn list_enrollments(&self, scope: &Scope, shown: &mut Shown) -> Result<(), Stop> {
        let (place, at) = (Listed::Scope(scope.no), at_scope(scope));
        let mut cursor = None;
        for _ in 0..PAGES_MAX {
            let ask = || self.inner.authority.enrollments(scope, cursor.as_ref());
            let page = self.page(place, at, "query enrollments", ask).await?;
            let snapshot = self.inner.directory.newest();
            for row in page.rows {
                let mapping = snapshot.device(&row.device).map_err(damaged)?;
                shown.hashes.push(hash(self.seed, place, &row.registration.folded()));
                if mapping.is_none() {
                    self.note_alias(&row.device, scope.no, &row.registration);
                }
                let suspect = compare::enrollment(snapshot.topology(), scope, &row, mapping.as_ref());
                shown.suspects.extend(suspect);
            }
            cursor = page.next;
            self.look_at(shown, cursor.is_none()).await?;
            if cursor.is_none() {
                return Ok(());
            }
        }
        Err(endless())
    }

    async fn groups(&self, scope: &Scope) -> Result<Vec<String>, Stop> {
        let (mut groups, mut cursor): (Vec<String>, _) = (Vec::new(), None);
        while groups.len() <= GROUPS_MAX {
            let ask = || self.inner.authority.groups(scope, cursor.as_ref());
            let page = self.page(Listed::Scope(scope.no), at_scope(scope), "query groups", ask).await?;
            groups.extend(page.rows);
            cursor = page.next;
            if cursor.is_none() {
                return Ok(groups);
            }
        }
        Err(Stop::Gap(format!("it has more than {GROUPS_MAX} enrollment groups")))
    }

    async fn list_registrations(&self, scope: &Scope, group: &str, shown: &mut Shown) -> Result<(), Stop> {
        let (place, at) = (Listed::Scope(scope.no), at_scope(scope));
        let mut cursor = None;
        for _ in 0..PAGES_MAX {
            let ask = || self.inner.authority.registrations(scope, group, cursor.as_ref());
            let page = self.page(place, at, "query registrations", ask).await?;
            let snapshot = self.inner.directory.newest();
            for row in page.rows {
                shown.hashes.push(hash(self.seed, place, &row.registration.folded()));
                // In a group a device is called in its hub as it registers (DPS, concepts).
                let Ok(enrolled) = DeviceId::parse(row.registration.as_str()) else { continue };
                let device = match &row.seen {
                    berth_core::reconcile::RegistrationSeen::Assigned { device, .. } => device,
                    _ => &enrolled,
                };
                let mapping = snapshot.device(device).map_err(damaged)?;
                let topology = snapshot.topology();
                shown.suspects.extend(compare::registration(
                    topology,
                    scope,
                    &row.registration,
                    &row.seen,
                    &enrolled,
                    mapping.as_ref(),
                ));
            }
            cursor = page.next;
            self.look_at(shown, cursor.is_none()).await?;
            if cursor.is_none() {
                return Ok(());
            }
        }
        Err(endless())
    }

    /// Verifies what is odd once there is enough of it, or no more comes; and sees to the room for hashes.
    async fn look_at(&self, shown: &mut Shown, is_last: bool) -> Result<(), Stop> {
        let more = shown.hashes.len() - shown.counted;
        shown.counted = shown.hashes.len();
        self.make_room(more)?;
        if is_last || shown.suspects.len() >= SUSPECTS_MAX {
            self.settle_all(std::mem::take(&mut shown.suspects)).await?;
        }
        Ok(())
    }

    /// One page, waited for as long as there is hope.
    async fn page<'a, T>(
        &self,
        of: Listed,
        at: At<'_>,
        operation: &'static str,
        ask: impl Fn() -> BoxFuture<'a, Result<Listing<T>, Trouble>>,
    ) -> Result<Listing<T>, Stop> {
        let inner = &self.inner;
        let mut patience = Patience::default();
        loop {
            inner.spare(self.term, at, 1).await?;
            let now_ms = inner.clock.now_ms();
            let leave =
                inner.of_term(self.term, |held| held.budgets.take(&[(at.place, at.per_minute)], 1, now_ms));
            match leave {
                None => return Err(Stop::Ended),
                // Somebody was quicker.
                Some(Err(_)) => continue,
                Some(Ok(left)) => inner.metrics.left(at.name, left),
            }
            let trouble = match ask().await {
                Ok(page) => {
                    inner.metrics.called(operation, "ok");
                    self.listed(of, at.name, &page);
                    return Ok(page);
                }
                Err(trouble) => trouble,
            };
            inner.metrics.called(operation, trouble.outcome());
            tracing::warn!(operation, place = at.name, %trouble, "Azure gave no page of a listing");
            let now_ms = inner.clock.now_ms();
            if let Trouble::Throttled { retry_after, .. } = &trouble {
                inner.of_term(self.term, |held| held.budgets.close(at.place, *retry_after, now_ms));
            }
            match patience.after(&trouble, now_ms) {
                Some(wait) => inner.wait(self.term, wait).await?,
                None => {
                    let problem: String = trouble.to_string().chars().take(PROBLEM_BYTES_MAX).collect();
                    return Err(Stop::Gap(problem));
                }
            }
        }
    }

    fn listed<T>(&self, of: Listed, name: &str, page: &Listing<T>) {
        let (rows, odd) = ((page.rows.len() + page.odd) as u64, page.odd as u64);
        if odd > 0 {
            self.inner.metrics.odd_rows(odd);
            tracing::warn!(
                place = name,
                odd,
                "rows of a listing cannot be read; what they stand for is verified one by one"
            );
        }
        self.page_read(of);
        self.tell(|report| {
            report.pages += 1;
            report.rows += rows;
            report.odd_rows += odd;
        });
    }
}

/// What a place has shown so far.
#[derive(Debug, Default)]
struct Shown {
    hashes: Vec<u64>,
    /// How many of them are accounted for.
    counted: usize,
    suspects: Vec<Suspect>,
}

/// The DPS instance of a scope.
pub(super) fn at_scope(scope: &Scope) -> At<'_> {
    At { place: Place::Scope(scope.no), name: scope.name.as_str(), per_minute: rate_of_scope(scope) }
}

pub(super) fn damaged(damage: impl std::fmt::Display) -> Stop {
    Stop::Gap(format!("a row of the directory cannot be read: {damage}"))
}

fn endless() -> Stop {
    Stop::Gap(format!("it has more than {PAGES_MAX} pages"))
}
