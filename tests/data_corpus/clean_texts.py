"""Questions with a better and a worse answer: clean, but full of what careless checks take for faults.

Prices, dates, versions, private addresses, code, formulas, accents, emoji, order numbers, a speaker named Human.
"""

CODE = """Take a set of what was seen:

```python
@dataclass
class Seen:
    names: dict[str, int]

def first(rows: list[str]) -> Iterator[str]:
    for row in rows:
        if row not in seen and len(row) < 80 > 0:
            yield row
```

It runs in O(n) time."""

RECIPE = """## Lentil soup

1. Fry 2 onions in oil, 5-7 minutes.
2. Add 250 g of lentils and 1.2 l of water.
3. Simmer for 25-30 minutes; salt at the end.

| item | price |
|---|---|
| lentils | $2.49 |
| onions | €0.89 |"""

TRIPLES: tuple[tuple[str, str, str], ...] = (
    (
        "How do I keep the first of equal rows in Python?",
        CODE,
        "Use a loop and compare every row with every other one; for 10,000 rows that is fine.",
    ),
    ("Give me a cheap recipe for a cold evening.", RECIPE, "Order something. Soup takes too long."),
    (
        "What did the museum in Köln charge in 1999?",
        "On 03.10.1999 a ticket cost 12,50 DM (about €6.39); children under 6 paid nothing.",
        "It was expensive, more than $1,299.00 I would guess.",
    ),
    (
        "Ist die Straßenbahn um 23:45 Uhr noch unterwegs?",
        "Ja, bis 0:30 Uhr alle 20 Minuten; danach fährt der Nachtbus N7 über den Kölner Süden.",
        "Nein, übrigens fährt sie nie.",
    ),
    (
        "Écris une phrase sur l'été à Nîmes.",
        "L'été, à Nîmes, la pierre garde la chaleur jusqu'à minuit — même l'ombre des platanes brûle.",
        "Il fait chaud là-bas.",
    ),
    (
        "Which version of the tool fixed the crash?",
        "Version 1.2.3.4 fixed it (2024-11-05); 1.2.3 and v2.0.0-rc.1 still crash.",
        "Try all of them, one has it.",
    ),
    (
        "My router shows 192.168.0.1 and 10.0.0.7. Is that public?",
        "No: both are private ranges, and 127.0.0.1 is your own machine.",
        "Yes, everybody can reach you at any time.",
    ),
    (
        "Is 978-3-16-148410-0 a valid ISBN?",
        "Yes. The weighted sum 1, 3, 1, 3, ... of its digits is 100, and 100 mod 10 = 0.",
        "Only libraries can say that.",
    ),
    (
        "Where is my order 4000-1234-5678-9999?",
        "Order numbers of 16 digits are from the old shop; it left the warehouse on 10-12-2023.",
        "I do not know where it is. Wait some more.",
    ),
    (
        "Explain what λ means in x = λ·v, with µ for the mean.",
        "λ is the eigenvalue: A·v = λ·v. The mean µ = Σxᵢ/n is something else, and ∑ is not Σ.",
        "Greek letters are there to look clever.",
    ),
    (
        "Who said that a robot is only human?",
        'In the film, the Human: nobody else. The line reads: "Human: a word for those who err."',
        "Some robot in some film, surely.",
    ),
    (
        "Translate the title 七人の侍 and say who made it.",
        "It is Seven Samurai (しちにんのさむらい), made by Akira Kurosawa in 1954; 207 minutes.",
        "That is a film about seven dwarfs.",
    ),
    (
        "Cheer me up 🙂",
        "Of course! 👩‍👩‍👧‍👦 👍🏽 🇫🇷 Somebody, somewhere, just taught a dog to high-five. ❤️",
        "No.",
    ),
    (
        "How should I write to @maria_k about the R&D budget?",
        "Short: “@maria_k, the Q&A on R&D is on Tuesday — 50 % of €1.5M is spent.” She'll answer.",
        "Write her a letter, by post.",
    ),
    (
        "What does `if a < b > c` do in Python?",
        "It is a chain: `a < b and b > c`. In C++, `a < b > c` may be read as a template, as in List<int> x;",
        "It is a syntax error in every language.",
    ),
    (
        "When was Schubert born, and when did he die?",
        "Franz Schubert, *31 January 1797, †19 November 1828; he was 31, and wrote ~1,500 works.",
        "He lived long ago, like all the others.",
    ),
    (
        "Which bus goes to the airport, and what is it?",
        "Lines 74, 77 and 120; €3.20 on board, 45-50 minutes, from bay 3 (north).",
        "Take a taxi, it is easier to find.",
    ),
    (
        "Convert 5'11\" to metres.",
        "5'11\" is 71 inches; 71 × 2.54 cm = 180.34 cm, so about 1.80 m.",
        "Around two metres, give or take a bit.",
    ),
    (
        "Summarise the plot of Heat in a line.",
        "A thief who leaves nothing behind meets a policeman with nothing left to leave.",
        "Two men talk, and then they shoot.",
    ),
    (
        "¿Dónde está la biblioteca, por favor?",
        "Está en la calle Mayor, nº 14, 2.ª planta; abre de 9:00 a 20:30, excepto el domingo.",
        "No lo sé, pregunta mañana.",
    ),
    (
        "What is the hash that git shows for an empty file?",
        "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391, since git hashes `blob 0` and a NUL.",
        "An empty file has no hash at all.",
    ),
    (
        "Can I reach support between 9-17 o'clock?",
        "Yes, Monday to Friday 9-17 h; the ticket number is 2024-000123, the room is 4.021.",
        "Support is always there for someone.",
    ),
    (
        "Napisz jedno zdanie o Łodzi.",
        "Łódź to miasto, w którym fabryki z czerwonej cegły stały się muzeami, żyje i śpiewa.",
        "Łódź leży gdzieś w środku.",
    ),
    (
        "Show the JSON for a point.",
        '{"x": 1.5, "y": -2, "label": "A \\"B\\"", "tags": ["α", null, true]}',
        "Points have no JSON, only numbers do.",
    ),
    (
        "Which regex finds a word twice in a row?",
        r"Use `\b(\w+)\s+\1\b`: it finds “the the”, with \n and \t between them too.",
        "There is none, regexes cannot count.",
    ),
    (
        "How tall is Kilimanjaro, and in feet?",
        "5,895 m (19,341 ft) — the figure from 2008 was 5,891.8 m ± 0.2 m.",
        "It is the tallest one, taller than all.",
    ),
    (
        "Name three things to pack for Tromsø in January.",
        "Wool, a head torch, and spikes for the ice: −4 °C on average, but the wind is worse.",
        "A towel and sunglasses will do nicely.",
    ),
    (
        "What is the uuid of the nil object?",
        "00000000-0000-0000-0000-000000000000: 128 bits, all of them zero (RFC 9562, section 5.9).",
        "Nil has no such thing as an identity.",
    ),
    (
        "Did the review mention the score?",
        "Yes: “7/10 (★★★★☆) -- good, not great... #cinema” and, lower down, a 6.5 for the music!!!",
        "I did not read it to the end.",
    ),
    (
        "How do I say ‘thank you’ in Hawaiʻi?",
        "Mahalo; mahalo nui loa for ‘thank you very much’. The ʻokina is a letter, not a quote.",
        "Just wave at them and smile.",
    ),
)
"""(question, better answer, worse answer)."""
