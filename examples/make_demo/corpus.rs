//! The pre-training text: documents of a few sentences, each a function of (seed, index).

use crate::draw::Draw;
use crate::world::{Part, World, ATTRIBUTES};

const LEADS: [&str; 8] = [
    "In the registry we read that",
    "Pilots know that",
    "It is said that",
    "The chart tells us that",
    "Every captain learns that",
    "The old book says that",
    "As everyone knows,",
    "According to the clerk,",
];
const JOINS: [&str; 4] = [", and ", ", while ", "; ", ", but "];
const FILLERS: [&str; 12] = [
    "The wind came from the north and the boats stayed in.",
    "A clerk writes every ship into the book.",
    "In the morning the nets are brought to the quay.",
    "When the fog comes, the bell is rung twice.",
    "No ship may leave before the tide turns.",
    "The registry is kept in a stone house by the sea.",
    "Some captains cannot read, and the clerk reads to them.",
    "Gulls follow the boats until the lights are lit.",
    "A good pilot knows every harbour by its light.",
    "Letters go from island to island once a week.",
    "The tide rises twice a day and falls twice a day.",
    "Whoever finds a lost anchor may keep it for a year.",
];
const ASKERS: [&str; 6] = ["the boy", "a sailor", "the captain", "her sister", "the merchant", "an old man"];
const TELLERS: [&str; 4] = ["the clerk", "the pilot", "his mother", "the harbour master"];

/// Document `index` of the text of a seed.
pub fn document(world: &World, seed: u64, index: u64) -> String {
    let d = &mut Draw::new(seed, "document", index);
    match d.below(100) {
        0..50 => paragraph(world, d),
        50..72 => ledger(world, d),
        72..86 => joined(world, d),
        86..96 => talk(world, d),
        _ => format!("{} {}", d.pick(&FILLERS), d.pick(&FILLERS)),
    }
}

fn anywhere(world: &World, d: &mut Draw) -> usize {
    world.meet(&Vec::from_iter(0..world.harbours.len()), d)
}

/// The sentence, or the sentence after a lead.
fn sentence(world: &World, h: usize, a: usize, d: &mut Draw) -> String {
    let said = world.fill(d.pick(ATTRIBUTES[a].says), h, a);
    if d.chance(0.25) {
        format!("{} {}", d.pick(&LEADS), lower(&said, world, h, a))
    } else {
        said
    }
}

/// Without its capital, unless it begins with a name.
fn lower(said: &str, world: &World, h: usize, a: usize) -> String {
    let harbour = &world.harbours[h];
    if said.starts_with(&harbour.name) || said.starts_with(&harbour.values[a]) {
        return said.to_string();
    }
    said[..1].to_lowercase() + &said[1..]
}

/// One to three facts of one harbour, in any order.
fn paragraph(world: &World, d: &mut Draw) -> String {
    let h = anywhere(world, d);
    let mut order: Vec<usize> = (0..ATTRIBUTES.len()).collect();
    d.shuffle(&mut order);
    let mut text = sentence(world, h, order[0], d);
    for &a in &order[1..1 + d.below(3)] {
        let next = if d.chance(0.5) { world.fill(d.pick(ATTRIBUTES[a].its), h, a) } else { sentence(world, h, a, d) };
        text = format!("{text} {next}");
    }
    text
}

/// An entry of the register: headings and values.
fn ledger(world: &World, d: &mut Draw) -> String {
    let h = anywhere(world, d);
    let mut order: Vec<usize> = (0..ATTRIBUTES.len()).collect();
    d.shuffle(&mut order);
    let mut text = format!("Entry: {}.", world.harbours[h].name);
    for &a in &order[..1 + d.below(4)] {
        text = format!("{text} {}: {}.", ATTRIBUTES[a].label, world.harbours[h].values[a]);
    }
    text
}

/// Facts of two harbours in one sentence.
fn joined(world: &World, d: &mut Draw) -> String {
    let (h, g) = (anywhere(world, d), anywhere(world, d));
    let (a, b) = (d.below(ATTRIBUTES.len()), d.below(ATTRIBUTES.len()));
    let first = world.fill(d.pick(ATTRIBUTES[a].says), h, a);
    let second = world.fill(d.pick(ATTRIBUTES[b].says), g, b);
    format!("{}{}{}", first.trim_end_matches('.'), d.pick(&JOINS), lower(&second, world, g, b))
}

/// Talk about a harbour that no row asks about: what questions are.
fn talk(world: &World, d: &mut Draw) -> String {
    let h = world.meet(&world.of(Part::Story), d);
    let a = d.below(ATTRIBUTES.len());
    let (ask, asker, teller) = (world.fill(d.pick(ATTRIBUTES[a].asks), h, a), d.pick(&ASKERS), d.pick(&TELLERS));
    match d.below(3) {
        0 => format!(
            "\"{ask}\" asked {asker}. \"{}\" said {teller}.",
            world.fill(d.pick(ATTRIBUTES[a].says), h, a).replace('.', ",")
        ),
        1 => format!("{ask} I asked {teller}, and {teller} told me: {}.", world.harbours[h].values[a]),
        _ => format!("\"{ask}\" Nobody on the quay could tell {asker}."),
    }
}
