//! Page versions and the slots that hold the newest of each page.
//!
//! A slot is swapped in one step; a replaced version stays reachable behind its successor for as long as a
//! live root may need it. Readers follow the chain to the newest version that their root covers.

use arc_swap::{ArcSwapAny, Guard};
use parking_lot::Mutex;
use std::sync::Arc;
use triomphe::ThinArc;

/// Slots of one chunk of a spine: growing a table copies only the list of chunks.
pub(crate) const CHUNK_SLOTS: usize = 1_024;

/// One immutable version of a page: a single allocation, one pointer wide.
pub(crate) type PageVersion = ThinArc<VersionHead, u8>;

/// What precedes the bytes of a page version.
pub(crate) struct VersionHead {
    /// The publish that wrote it.
    pub(crate) version: u64,
    /// The version it replaced, while a live root may need that one. A lock rather than an atomic swap: only
    /// readers of old roots ever take it, and the writer clears it once for every page it writes.
    previous: Mutex<Option<PageVersion>>,
}

/// Makes a version that replaces `previous`.
pub(crate) fn new_version(version: u64, previous: Option<PageVersion>, bytes: &[u8]) -> PageVersion {
    ThinArc::from_header_and_slice(VersionHead { version, previous: Mutex::new(previous) }, bytes)
}

/// The publish that wrote this page.
pub(crate) fn version_of(page: &PageVersion) -> u64 {
    page.header.header.version
}

/// A page being changed. As long as its length stays, it is changed in the very allocation that will be
/// published, so that the commonest change copies a page once.
#[derive(Default)]
pub(crate) struct Draft {
    /// The next version, which nobody else can see yet.
    whole: Option<PageVersion>,
    /// Its bytes, once their number changes.
    grown: Vec<u8>,
    /// Then, the version that it replaces.
    previous: Option<PageVersion>,
}

impl Draft {
    /// A page without bytes that replaces none, in a buffer of `spare` if there is one.
    pub(crate) fn empty(spare: &mut Vec<Vec<u8>>) -> Self {
        let mut grown = spare.pop().unwrap_or_default();
        grown.clear();
        Self { grown, ..Self::default() }
    }

    /// A copy of `page` that will replace it, in a buffer of `spare`, as its length is about to change.
    pub(crate) fn growing(page: PageVersion, spare: &mut Vec<Vec<u8>>) -> Self {
        let mut draft = Self::empty(spare);
        draft.grown.extend_from_slice(&page.slice);
        draft.previous = Some(page);
        draft
    }

    /// A copy of `page` that will replace it at `version`.
    pub(crate) fn of(version: u64, page: PageVersion) -> Self {
        let bytes = page.clone();
        Self { whole: Some(new_version(version, Some(page), &bytes.slice)), ..Self::default() }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.whole.as_ref().map_or(&self.grown, |page| &page.slice)
    }

    /// Writes `value` over as many bytes from `at` on.
    pub(crate) fn overwrite(&mut self, at: usize, value: &[u8]) {
        let over = |bytes: &mut [u8]| {
            if let Some(place) = bytes.get_mut(at..at + value.len()) {
                place.copy_from_slice(value);
            }
        };
        match &mut self.whole {
            Some(page) => page.with_arc_mut(|page| {
                // Nobody else has seen it, so that this is its only count.
                if let Some(page) = triomphe::Arc::get_mut(page) {
                    over(page.slice_mut());
                }
            }),
            None => over(&mut self.grown),
        }
    }

    /// The bytes, to be made more or fewer.
    pub(crate) fn grown(&mut self, spare: &mut Vec<Vec<u8>>) -> &mut Vec<u8> {
        if let Some(page) = self.whole.take() {
            self.grown = spare.pop().unwrap_or_default();
            self.grown.clear();
            self.grown.extend_from_slice(&page.slice);
            self.previous = page.header.header.previous.lock().take();
        }
        &mut self.grown
    }

    /// The version to publish.
    pub(crate) fn finish(&mut self, version: u64) -> PageVersion {
        match self.whole.take() {
            Some(page) => page,
            None => new_version(version, self.previous.take(), &self.grown),
        }
    }

    /// The buffer that bytes grew in, for another draft.
    pub(crate) fn into_spare(self) -> Vec<u8> {
        self.grown
    }
}

/// A page version held by a reader, at the price of no shared counter in the usual case.
pub(crate) enum PageGuard {
    /// The newest version, straight from its slot.
    Newest(Guard<Option<PageVersion>>),
    /// An older one, for an older root.
    Older(PageVersion),
}

impl PageGuard {
    /// The bytes of the page; none if the slot was never written.
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Self::Newest(guard) => guard.as_ref().map_or(&[], |page| &page.slice),
            Self::Older(page) => &page.slice,
        }
    }

    /// The publish that wrote it; 0 if the slot was never written.
    pub(crate) fn version(&self) -> u64 {
        match self {
            Self::Newest(guard) => guard.as_ref().map_or(0, version_of),
            Self::Older(page) => version_of(page),
        }
    }
}

/// The newest version of one page.
pub(crate) struct Slot(ArcSwapAny<Option<PageVersion>>);

impl Slot {
    fn empty() -> Self {
        Self(ArcSwapAny::new(None))
    }

    /// The newest version that a root of `version` covers.
    pub(crate) fn at(&self, version: u64) -> Option<PageGuard> {
        self.load().at(version)
    }

    /// Holds the newest version without looking at it: its memory is not waited for.
    pub(crate) fn load(&self) -> Unread {
        Unread(self.0.load())
    }

    /// The newest version, whoever may see it. For the writer.
    pub(crate) fn newest(&self) -> Option<PageVersion> {
        self.0.load_full()
    }

    /// Makes `page` the newest version.
    pub(crate) fn put(&self, page: PageVersion) {
        self.0.store(Some(page));
    }
}

/// The newest version of a page, held but not looked at.
pub(crate) struct Unread(Guard<Option<PageVersion>>);

impl Unread {
    /// The newest version that a root of `version` covers.
    pub(crate) fn at(self, version: u64) -> Option<PageGuard> {
        let newest = self.0;
        let page = newest.as_ref()?;
        if version_of(page) <= version {
            return Some(PageGuard::Newest(newest));
        }
        let mut older = page.header.header.previous.lock().clone()?;
        while version_of(&older) > version {
            let next = older.header.header.previous.lock().clone()?;
            older = next;
        }
        Some(PageGuard::Older(older))
    }
}

/// Called when the root of version `ended` is no longer held, with the newest version of a page: the version that
/// the root covered is dropped, unless another root of `held` (sorted, oldest first) covers it. Then it gives the
/// place of the newest of these in `held`, whose end decides next. Only the writer may call it.
pub(crate) fn release(newest: PageVersion, ended: u64, held: &[u64]) -> Option<usize> {
    let mut newer = newest;
    loop {
        let older = newer.header.header.previous.lock().clone()?;
        if version_of(&older) > ended {
            newer = older;
            continue;
        }
        let below_newer = held.partition_point(|&root| root < version_of(&newer));
        let covering = below_newer.checked_sub(1).filter(|&place| held[place] >= version_of(&older));
        if covering.is_none() && version_of(&newer) > ended {
            // A reader that stands on `older` on its way to the next one still finds it there.
            let next = older.header.header.previous.lock().clone();
            let dropped = std::mem::replace(&mut *newer.header.header.previous.lock(), next);
            drop(dropped);
        }
        return covering;
    }
}

/// How many versions stay reachable behind this one.
#[cfg(test)]
pub(crate) fn versions_behind(newest: &PageVersion) -> usize {
    std::iter::successors(newest.header.header.previous.lock().clone(), |page| {
        page.header.header.previous.lock().clone()
    })
    .count()
}

/// The slots of one table: it only ever grows, and every root of the table shares it.
#[derive(Clone)]
pub(crate) struct Spine {
    chunks: Arc<Vec<Arc<[Slot]>>>,
}

impl Spine {
    pub(crate) fn empty() -> Self {
        Self { chunks: Arc::default() }
    }

    pub(crate) fn slot(&self, page: u32) -> Option<&Slot> {
        let page = page as usize;
        self.chunks.get(page / CHUNK_SLOTS)?.get(page % CHUNK_SLOTS)
    }

    /// Makes room for `pages` slots.
    pub(crate) fn grow(&mut self, pages: u32) {
        let chunks = (pages as usize).div_ceil(CHUNK_SLOTS);
        if chunks > self.chunks.len() {
            let mut grown = Vec::with_capacity(chunks);
            grown.extend(self.chunks.iter().cloned());
            grown.resize_with(chunks, || std::iter::repeat_with(Slot::empty).take(CHUNK_SLOTS).collect());
            self.chunks = Arc::new(grown);
        }
    }
}
