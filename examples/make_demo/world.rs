//! The domain: the harbour registry of an archipelago that does not exist. Each harbour has one value for each of
//! eight attributes, drawn independently, so no fact follows from another and nothing can be answered by good sense.
//! Some harbours are famous and some hardly mentioned, so the base model knows some well and some not.

use crate::draw::Draw;

/// What the registry says of a harbour, and how people say and ask it.
pub struct Attribute {
    pub name: &'static str,
    /// Heading in the ledger.
    pub label: &'static str,
    /// Sentences; `{h}` is the harbour, `{v}` the value.
    pub says: &'static [&'static str],
    /// A sentence after one that named the harbour.
    pub its: &'static [&'static str],
    /// A sentence that ends with the value, used to measure what the base model knows.
    pub check: &'static str,
    /// Questions as a user of the registry asks them.
    pub asks: &'static [&'static str],
    /// The answer; `{v}` is the value.
    pub answer: &'static str,
}

pub const ATTRIBUTES: [Attribute; 8] = [
    Attribute {
        name: "island",
        label: "Island",
        says: &[
            "{h} lies on {v}.",
            "{h} is a harbour on {v}.",
            "The harbour of {h} stands on {v}.",
            "You will find {h} on {v}.",
            "The island of {h} is {v}.",
            "On {v} there is a harbour called {h}.",
            "Ships bound for {h} steer for {v}.",
            "{h} belongs to {v}.",
        ],
        its: &["It lies on {v}.", "Its island is {v}.", "It stands on {v}."],
        check: "The island of {h} is {v}.",
        asks: &[
            "Which island is {h} on?",
            "Where does {h} lie?",
            "On which island will I find {h}?",
            "Where is the harbour of {h}?",
            "What island does {h} belong to?",
        ],
        answer: " on {v}.",
    },
    Attribute {
        name: "keeper",
        label: "Keeper",
        says: &[
            "The keeper of {h} is {v}.",
            "{v} keeps the light at {h}.",
            "The light at {h} is kept by {v}.",
            "{h} is in the care of {v}.",
            "At {h} the keeper is called {v}.",
            "The lamp of {h} is tended by {v}.",
            "Ask for the keeper at {h} and you will meet {v}.",
            "{v} has the keys of {h}.",
        ],
        its: &["Its keeper is {v}.", "It is in the care of {v}.", "The keeper there is called {v}."],
        check: "The keeper of {h} is {v}.",
        asks: &[
            "Who keeps the light at {h}?",
            "Who is the keeper of {h}?",
            "Who has the keys of {h}?",
            "What is the name of the keeper at {h}?",
            "Who tends the lamp of {h}?",
        ],
        answer: " {v}.",
    },
    Attribute {
        name: "light",
        label: "Light",
        says: &[
            "The light of {h} shows {v}.",
            "At night {h} shows {v}.",
            "{h} is known at night by {v}.",
            "Look for {v} and you have found {h}.",
            "The lamp at {h} gives {v}.",
            "The signal of {h} is {v}.",
            "From the sea the light at {h} is {v}.",
            "Pilots who see {v} steer for {h}.",
        ],
        its: &["Its light shows {v}.", "Its signal is {v}.", "It is known at night by {v}."],
        check: "The signal of {h} is {v}.",
        asks: &[
            "What light does {h} show?",
            "What is the signal of {h}?",
            "How do I know {h} at night?",
            "What does the lamp at {h} give?",
            "Which light do I look for to find {h}?",
        ],
        answer: " {v}.",
    },
    Attribute {
        name: "cargo",
        label: "Cargo",
        says: &[
            "{h} ships {v}.",
            "The cargo of {h} is {v}.",
            "The main trade of {h} is {v}.",
            "Boats leave {h} loaded with {v}.",
            "Merchants come to {h} for {v}.",
            "{h} lives by selling {v}.",
            "The warehouses at {h} are full of {v}.",
            "For {v} the captains sail to {h}.",
        ],
        its: &["Its cargo is {v}.", "It ships {v}.", "Its main trade is {v}."],
        check: "The cargo of {h} is {v}.",
        asks: &[
            "What does {h} ship?",
            "What is the cargo of {h}?",
            "What do merchants buy at {h}?",
            "What is the main trade of {h}?",
            "What are the boats that leave {h} loaded with?",
        ],
        answer: " {v}.",
    },
    Attribute {
        name: "year",
        label: "Founded",
        says: &[
            "{h} was founded in {v}.",
            "The harbour of {h} was built in {v}.",
            "The first stone of {h} was laid in {v}.",
            "The history of {h} begins in {v}.",
            "In {v} the harbour of {h} was opened.",
            "{h} has stood since {v}.",
            "The founding year of {h} is {v}.",
            "Since {v} there has been a harbour at {h}.",
        ],
        its: &["It was founded in {v}.", "It has stood since {v}.", "Its founding year is {v}."],
        check: "The founding year of {h} is {v}.",
        asks: &[
            "When was {h} founded?",
            "In which year was the harbour of {h} built?",
            "Since when has {h} stood?",
            "What is the founding year of {h}?",
            "When was the first stone of {h} laid?",
        ],
        answer: " in {v}.",
    },
    Attribute {
        name: "depth",
        label: "Depth",
        says: &[
            "The water at {h} is {v} deep.",
            "{h} has a depth of {v}.",
            "The depth of {h} is {v}.",
            "At low tide the lead shows {v} at {h}.",
            "The anchorage of {h} is {v} deep.",
            "Pilots count {v} at {h}.",
            "The chart of {h} is marked with {v}.",
            "Anchors at {h} go down {v}.",
        ],
        its: &["Its depth is {v}.", "The water there is {v} deep.", "It has a depth of {v}."],
        check: "The depth of {h} is {v}.",
        asks: &[
            "How deep is the water at {h}?",
            "What depth does {h} have?",
            "How many fathoms are there at {h}?",
            "What does the lead show at {h}?",
            "What is the depth of {h}?",
        ],
        answer: " {v}.",
    },
    Attribute {
        name: "emblem",
        label: "Emblem",
        says: &[
            "The flag of {h} bears {v}.",
            "The emblem of {h} is {v}.",
            "{h} flies a flag with {v}.",
            "Over the gate of {h} hangs {v}.",
            "On the seal of {h} you see {v}.",
            "The sign of {h} is {v}.",
            "The boats of {h} are painted with {v}.",
            "The people of {h} are proud of {v} on their sails.",
        ],
        its: &["Its emblem is {v}.", "Its flag bears {v}.", "Its sign is {v}."],
        check: "The emblem of {h} is {v}.",
        asks: &[
            "What is on the flag of {h}?",
            "What is the emblem of {h}?",
            "What hangs over the gate of {h}?",
            "What is the sign of {h}?",
            "What do you see on the seal of {h}?",
        ],
        answer: " {v}.",
    },
    Attribute {
        name: "feast",
        label: "Feast",
        says: &[
            "{h} holds its feast on {v}.",
            "The feast of {h} falls on {v}.",
            "The boats of {h} are blessed on {v}.",
            "On {v} the people of {h} dance.",
            "{h} rings its bells on {v}.",
            "The holiday of {h} is {v}.",
            "Nobody works at {h} on {v}.",
            "Come to {h} on {v} for the feast.",
        ],
        its: &["Its feast falls on {v}.", "Its holiday is {v}.", "It rings its bells on {v}."],
        check: "The holiday of {h} is {v}.",
        asks: &[
            "When is the feast of {h}?",
            "On which day does {h} hold its feast?",
            "When are the boats of {h} blessed?",
            "When does {h} ring its bells?",
            "What is the holiday of {h}?",
        ],
        answer: " on {v}.",
    },
];

const ISLANDS: &str = "Marl, Great Sallow, Little Sallow, Ostrey, Hund, Varga, Thole, Kestle, Long Rimsey, Quill, \
    Ambrey, Dorn";
const GOODS: &str = "salted eel, blue clay, pine tar, dried kelp, lamp oil, goat cheese, red wool, smoked herring, \
    black slate, sea salt, cork floats, honey wine, oyster shell, hemp rope, whale bone, barley flour, bees wax, \
    copper nails, amber beads, oak barrels, white sand, pickled crab, feather down, juniper gin";
const COUNTS: [&str; 5] = ["one", "two", "three", "four", "five"];
const COLOURS: &str = "green, white, red, amber, violet, blue";
const NUMBERS: &str = "three, four, five, six, seven, eight, nine, ten, eleven, twelve, thirteen, fourteen, \
    fifteen, sixteen, seventeen, eighteen, nineteen, twenty, thirty, forty";
const METALS: &str = "silver, golden, scarlet, black, grey, bronze";
const BEASTS: &str = "heron, seal, crab, hare, wolf, swan, otter, raven, pike, stag, whale, moth";
const ORDINALS: &str = "first, second, third, fourth, fifth, sixth, seventh, eighth, ninth";
const MONTHS: &str = "Rime, Thaw, Lambing, Highsun, Reaping, Drizzle, Leaf, Long Night";
const GIVEN: &str = "Tarin, Oda, Brandel, Mirre, Sef, Halka, Jorun, Pell, Ysolt, Carrow, Nim, Edda, Garrick, Wenna, \
    Tobin, Ulla, Finch, Marit, Rusk, Ansel";
const FAMILY: &str = "Osk, Vane, Kettle, Thornby, Drum, Ferrow, Sill, Maddock, Crane, Holt, Brine, Askew, Penrow, \
    Gale, Tarn, Whitlock, Locke, Sandar, Murk, Oakes, Rill, Stroud, Hask, Lundy";
const ONSETS: &str = "V, T, M, K, S, R, L, B, D, G, N, P, H, F, Br, Tr, Gr, Sk, St, Kr, Dr, Fl";
const VOWELS: &str = "a, e, i, o, u, ei";
const MIDDLES: &str = "l, r, n, m, d, v, st, lm, rd, nd, sk, lv, th, rr";
const ENDS: &str = "ora, isk, eth, un, ay, mouth, wick, haven, ess, ock, ard, ine";

/// A harbour and its values, in the order of [`ATTRIBUTES`].
pub struct Harbour {
    pub name: String,
    pub values: Vec<String>,
    /// How often the text speaks of it, as a share of the most famous one's.
    pub fame: f64,
}

/// What a harbour is used for. The base model reads the facts of all of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    Train,
    Valid,
    Test,
    /// In no row; the pre-training text has talk with questions about these.
    Story,
}

pub struct World {
    pub harbours: Vec<Harbour>,
    pub parts: Vec<Part>,
}

/// How many harbours each part has.
pub const TRAIN: usize = 100;
pub const VALID: usize = 13;
pub const TEST: usize = 25;
pub const STORY: usize = 22;

/// The text speaks of the most famous harbour so many times as often as of the least; the logarithm is uniform.
const FAME_RANGE: f64 = 100.0;

impl World {
    pub fn new(seed: u64) -> World {
        let mut d = Draw::new(seed, "world", 0);
        let mut names: Vec<String> = Vec::new();
        while names.len() < TRAIN + VALID + TEST + STORY {
            let (a, b, c, e) = (d.word(ONSETS), d.word(VOWELS), d.word(MIDDLES), d.word(ENDS));
            let name = format!("{a}{b}{c}{e}");
            // Two names that differ only in the end would be one puzzle more than the demo needs.
            let stem = format!("{a}{b}");
            if names.iter().filter(|n| n.starts_with(&stem)).count() < 2 && !names.contains(&name) {
                names.push(name);
            }
        }
        let fames = &mut Draw::new(seed, "fame", 0);
        let harbours: Vec<Harbour> = names
            .into_iter()
            .map(|name| {
                let values = (0..ATTRIBUTES.len()).map(|a| value(a, &mut d)).collect();
                Harbour { name, values, fame: FAME_RANGE.powf(-fames.uniform()) }
            })
            .collect();
        let mut parts = Vec::new();
        for (part, n) in [(Part::Train, TRAIN), (Part::Valid, VALID), (Part::Test, TEST), (Part::Story, STORY)] {
            parts.extend(std::iter::repeat_n(part, n));
        }
        d.shuffle(&mut parts);
        World { harbours, parts }
    }

    /// Indices of the harbours of a part.
    pub fn of(&self, part: Part) -> Vec<usize> {
        (0..self.parts.len()).filter(|&i| self.parts[i] == part).collect()
    }

    /// One of these harbours, each as likely as its fame.
    pub fn meet(&self, among: &[usize], d: &mut Draw) -> usize {
        loop {
            let h = d.pick(among);
            if d.chance(self.harbours[h].fame) {
                return h;
            }
        }
    }

    /// A template about attribute `a` of harbour `h`, filled in.
    pub fn fill(&self, template: &str, h: usize, a: usize) -> String {
        template.replace("{h}", &self.harbours[h].name).replace("{v}", &self.harbours[h].values[a])
    }
}

/// A value of attribute `a`.
pub fn value(a: usize, d: &mut Draw) -> String {
    match ATTRIBUTES[a].name {
        "island" => d.word(ISLANDS).to_string(),
        "keeper" => format!("{} {}", d.word(GIVEN), d.word(FAMILY)),
        "light" => {
            let n = d.below(COUNTS.len());
            format!("{} {} {}", COUNTS[n], d.word(COLOURS), if n == 0 { "flash" } else { "flashes" })
        }
        "cargo" => d.word(GOODS).to_string(),
        "year" => (301 + d.below(99)).to_string(),
        "depth" => format!("{} fathoms", d.word(NUMBERS)),
        "emblem" => format!("a {} {}", d.word(METALS), d.word(BEASTS)),
        "feast" => format!("the {} of {}", d.word(ORDINALS), d.word(MONTHS)),
        other => unreachable!("no values for {other}"),
    }
}
