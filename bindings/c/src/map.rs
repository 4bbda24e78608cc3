//! The data map of a run: what its dynamics say of each example.

use std::ffi::c_char;

use serde_json::{Map, Value};
use sftmix::dynamics::Half;
use sftmix::{DataMap, MapPage, MapQuery, MapRow};

use crate::border::{self, given_out, json, maybe_text, place, take_all_back, text, Sized, SFTMIX_UNSET};
use crate::fault::{guard, sftmix_status, Fail, Result};
use crate::given::{flag, Given};
use crate::table::{self, Held};

/// The data map of a run, on the checkpoints that were whole when it was opened. The log stays in its files.
pub struct sftmix_map(());

struct Chart(DataMap);

impl Held for Chart {
    type Opaque = sftmix_map;
    const KIND: usize = 4;
}

/// What a page of a map is asked by. `sftmix_map_query_init` sets nothing, which is the 100 least confident examples without
/// their texts.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct sftmix_map_query {
    /// Bytes of the structure, set by `sftmix_map_query_init`.
    pub struct_size: usize,
    /// `confidence`, `mean_probability`, `variability`, `correctness`, `forgetfulness`, `mean_perplexity`, `mean_nll`,
    /// `tokens` or `row`; NaN comes last.
    pub sort_by: *const c_char,
    /// `confident`, `unconfident` or `neither` alone.
    pub half: *const c_char,
    /// Bounds that all must hold: a JSON list of objects with `key` (as in `sort_by`), `min` and `max`.
    pub filters_json: *const c_char,
    /// 1: greatest first.
    pub descending: i64,
    /// Rows before the page.
    pub offset: i64,
    /// Most rows of the page, 1 to 10000.
    pub limit: i64,
    /// 1: with the rows' texts, for which the data files are read.
    pub with_text: i64,
}

impl Sized for sftmix_map_query {
    const NAME: &'static str = "sftmix_map_query";

    fn unset() -> Self {
        let none = std::ptr::null();
        sftmix_map_query {
            struct_size: std::mem::size_of::<Self>(),
            sort_by: none,
            half: none,
            filters_json: none,
            descending: SFTMIX_UNSET,
            offset: SFTMIX_UNSET,
            limit: SFTMIX_UNSET,
            with_text: SFTMIX_UNSET,
        }
    }

    fn size_mut(&mut self) -> &mut usize {
        &mut self.struct_size
    }
}

/// Sets nothing, in a structure of which the caller has so many bytes: `sftmix_map_query_init` says how many. NULL is left alone.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sftmix_map_query_init_sized(query: *mut sftmix_map_query, size: usize) {
    // SAFETY: it is NULL or the caller's.
    unsafe { border::init(query, size) };
}

/// A half of the rows.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum sftmix_half {
    /// Of neither.
    Neither = 0,
    /// The confident half.
    Confident = 1,
    /// The unconfident half.
    Unconfident = 2,
}

/// An example and what the checkpoints say of it. A later version may have more of it, behind the last.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct sftmix_map_row {
    /// Its place in the set, from 0.
    pub index: u64,
    /// Number of the row in its file, from 1.
    pub row: u64,
    /// The place of the file among the run's, from 0.
    pub file_index: u64,
    /// The file; NULL where it is not known. The page's own, as the other texts.
    pub file: *mut c_char,
    /// What comes before the response; NULL without text.
    pub prompt: *mut c_char,
    /// What is trained; NULL without text.
    pub response: *mut c_char,
    /// Why there is no text, where it was asked for; otherwise NULL.
    pub text_absent: *mut c_char,
    /// The half that it is in.
    pub half: sftmix_half,
    /// SFTMix's confidence: minus the mean perplexity or NLL.
    pub confidence: f64,
    /// Mean perplexity.
    pub mean_perplexity: f64,
    /// Mean NLL, nats a token.
    pub mean_nll: f64,
    /// Mean probability: cartography's confidence.
    pub mean_probability: f64,
    /// Standard deviation of the probability.
    pub variability: f64,
    /// Checkpoints that predict at least half of the tokens.
    pub correctness: u64,
    /// Changes from such a checkpoint to one that does not; 1000 if there is none.
    pub forgetfulness: u64,
    /// Supervised tokens.
    pub tokens: u64,
}

/// A page of a map. Set up by `sftmix_map_page_init`; what a call has filled is freed by `sftmix_map_page_free`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct sftmix_map_page {
    /// Bytes of the structure, set by `sftmix_map_page_init`.
    pub struct_size: usize,
    /// Examples that the filters leave, over all pages.
    pub total: u64,
    /// Rows of this page.
    pub count: usize,
    /// So many rows, in the order that was asked for; the page's own. `sftmix_map_page_row` gives one.
    pub rows: *mut sftmix_map_row,
    /// Bytes from one row to the next, which a later library may have more of than `sizeof(sftmix_map_row)`.
    pub row_size: usize,
}

impl Sized for sftmix_map_page {
    const NAME: &'static str = "sftmix_map_page";

    fn unset() -> Self {
        sftmix_map_page {
            struct_size: std::mem::size_of::<Self>(),
            total: 0,
            count: 0,
            rows: std::ptr::null_mut(),
            row_size: std::mem::size_of::<sftmix_map_row>(),
        }
    }

    fn size_mut(&mut self) -> &mut usize {
        &mut self.struct_size
    }

    unsafe fn free(&mut self) {
        let (rows, count) = (std::mem::replace(&mut self.rows, std::ptr::null_mut()), std::mem::take(&mut self.count));
        if rows.is_null() {
            return;
        }
        // SAFETY: made so many by `sftmix_map_rows`, as their texts were.
        unsafe {
            let mut rows = Box::from_raw(std::ptr::slice_from_raw_parts_mut(rows, count));
            for r in &mut rows {
                take_all_back([&mut r.file, &mut r.prompt, &mut r.response, &mut r.text_absent]);
            }
        }
    }
}

/// Sets up a structure of which the caller has so many bytes: `sftmix_map_page_init` says how many. NULL is left alone.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sftmix_map_page_init_sized(page: *mut sftmix_map_page, size: usize) {
    // SAFETY: it is NULL or the caller's.
    unsafe { border::init(page, size) };
}

/// Frees the rows of a page and their texts, and empties it; again, or with NULL, does nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sftmix_map_page_free(page: *mut sftmix_map_page) {
    // SAFETY: it is NULL or the caller's.
    unsafe { border::release(page) };
}

fn row_out(r: &MapRow) -> sftmix_map_row {
    let text = |t: Option<&str>| t.map_or(std::ptr::null_mut(), given_out);
    sftmix_map_row {
        index: r.index.into(),
        row: r.row,
        file_index: r.file_index.into(),
        file: text(r.file.as_ref().map(|f| f.to_string_lossy()).as_deref()),
        prompt: text(r.prompt.as_deref()),
        response: text(r.response.as_deref()),
        text_absent: text(r.text_absent.as_deref()),
        half: match r.half {
            Half::Confident => sftmix_half::Confident,
            Half::Unconfident => sftmix_half::Unconfident,
            Half::Neither => sftmix_half::Neither,
        },
        confidence: r.confidence,
        mean_perplexity: r.mean_perplexity,
        mean_nll: r.mean_nll,
        mean_probability: r.mean_probability,
        variability: r.variability,
        correctness: r.correctness.into(),
        forgetfulness: r.forgetfulness.into(),
        tokens: r.tokens.into(),
    }
}

unsafe fn query(p: *const sftmix_map_query) -> Result<MapQuery> {
    let mut given = Given::default();
    // SAFETY: passed on.
    let filters = unsafe {
        let q = border::read_or_unset(p)?;
        given.text("sort_by", q.sort_by)?;
        given.text("half", q.half)?;
        given.number("offset", q.offset);
        given.number("limit", q.limit);
        given.put("descending", flag(q.descending, "descending")?);
        given.put("with_text", flag(q.with_text, "with_text")?);
        maybe_text(q.filters_json, "filters_json")?
    };
    if let Some(text) = filters {
        let bad = |e: serde_json::Error| Fail::argument("filters_json", &format!("not valid JSON: {e}"));
        given.put("filters", serde_json::from_str::<Value>(text).map_err(bad)?);
    }
    let given = given.into_map();
    // One by one first, so that the one at fault is named.
    for (name, value) in &given {
        let alone = Map::from_iter([(name.clone(), value.clone())]);
        serde_json::from_value::<MapQuery>(Value::Object(alone)).map_err(|e| Fail::setting(name, e.to_string()))?;
    }
    serde_json::from_value(Value::Object(given)).map_err(|e| Fail::argument("query", &e.to_string()))
}

/// Opens the map of a run folder, also of one whose run still goes on.
///
/// `*out` is freed with `sftmix_map_free`. From any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sftmix_map_open(run: *const c_char, out: *mut *mut sftmix_map) -> sftmix_status {
    // SAFETY: the pointers are the caller's.
    guard(|| unsafe {
        table::at_home()?;
        let (run, out) = (text(run, "run")?, place(out, "out")?);
        *out = table::put(Chart(DataMap::open(run)?))?;
        Ok(())
    })
}

/// A page of the map; `query` may be NULL.
///
/// `page` was set up by `sftmix_map_page_init` and is freed with `sftmix_map_page_free` before it is filled again. From any
/// thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sftmix_map_rows(
    map: *const sftmix_map,
    map_query: *const sftmix_map_query,
    page: *mut sftmix_map_page,
) -> sftmix_status {
    // SAFETY: the pointers are the caller's.
    guard(|| unsafe {
        let map = table::get::<Chart>(map)?;
        border::can_fill(page)?;
        let MapPage { total, rows, .. } = map.0.page(&query(map_query)?)?;
        let rows: Box<[sftmix_map_row]> = rows.iter().map(row_out).collect();
        let count = rows.len();
        border::fill(page, sftmix_map_page { total, count, rows: Box::into_raw(rows).cast(), ..Sized::unset() })
    })
}

/// The same page as JSON.
///
/// `*out` is freed with `sftmix_string_free`. From any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sftmix_map_rows_json(
    map: *const sftmix_map,
    map_query: *const sftmix_map_query,
    out: *mut *mut c_char,
) -> sftmix_status {
    // SAFETY: the pointers are the caller's.
    guard(|| unsafe {
        let (map, out) = (table::get::<Chart>(map)?, place(out, "out")?);
        *out = given_out(&json(&map.0.page(&query(map_query)?)?)?);
        Ok(())
    })
}

/// What the log says as a whole, as JSON: distributions, both halves.
///
/// `*out` is freed with `sftmix_string_free`. From any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sftmix_map_summary(map: *const sftmix_map, out: *mut *mut c_char) -> sftmix_status {
    // SAFETY: the pointers are the caller's.
    guard(|| unsafe {
        let (map, out) = (table::get::<Chart>(map)?, place(out, "out")?);
        *out = given_out(&json(&map.0.summary()?)?);
        Ok(())
    })
}

/// An example, by its index, under one checkpoint after another, as a JSON list.
///
/// `*out` is freed with `sftmix_string_free`. From any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sftmix_map_history(
    map: *const sftmix_map,
    example: u32,
    out: *mut *mut c_char,
) -> sftmix_status {
    // SAFETY: the pointers are the caller's.
    guard(|| unsafe {
        let (map, out) = (table::get::<Chart>(map)?, place(out, "out")?);
        *out = given_out(&json(&map.0.history(example)?)?);
        Ok(())
    })
}

/// Frees the handle. NULL is fine. From any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sftmix_map_free(map: *mut sftmix_map) -> sftmix_status {
    guard(|| if map.is_null() { Ok(()) } else { table::take::<Chart>(map).map(drop) })
}
