"""Does the language filter lose English papers, or keep others? And what does it cost?

    python benchmarks/language.py                                   # composed papers in ten languages, half of each mathematics
    python benchmarks/language.py --eprints ../shared/eprints       # and real e-prints: folder with src/ and metadata.jsonl
    python benchmarks/language.py --man /usr/share/man              # and translated manual pages, as far as installed

In: sentences below, written for this file; formulas made at random. Out: a table by language: papers kept and lost, CPU time.
Each composed paper comes in three forms: title and abstract in its own language; in English, as arXiv asks for; none at all.
"""

import gzip
import itertools
import json
import random
import re
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # run as a file: import from the repository root

from data_prep.cli import Parser, run
from data_prep.filters import Limits, check_language, guess_language, language_profiles
from data_prep.records import Rejection, parse_name

Paper = tuple[str, str, str]  # title, abstract, text

SENTENCES: dict[str, tuple[str, ...]] = {
    "en": (
        "We show that each of these sequences has a limit, and that the limit does not depend on the order of the terms.",
        "The proof is short and uses nothing but the definition of a compact set.",
        "It would be interesting to know whether the same bound holds for graphs with loops.",
        "From this we obtain an algorithm which is faster than the obvious one by a constant factor.",
        "In the second section we recall some facts about groups that are needed later.",
        "The particles move along straight lines until they meet the wall of the vessel.",
        "Our measurements agree with the theory within the error that was to be expected.",
        "For the converse, suppose that the function is not continuous at the origin.",
    ),
    "fr": (
        "Nous montrons que chacune de ces suites admet une limite, et que celle-ci ne dépend pas de l'ordre des termes.",
        "La démonstration est courte et n'utilise rien d'autre que la définition d'un ensemble compact.",
        "Il serait intéressant de savoir si la même borne est vraie pour les graphes avec des boucles.",
        "On en déduit un algorithme plus rapide que la méthode évidente, à une constante près.",
        "Dans la deuxième partie, nous rappelons quelques propriétés des groupes dont nous aurons besoin plus loin.",
        "Les particules se déplacent en ligne droite jusqu'à ce qu'elles rencontrent la paroi du récipient.",
        "Nos mesures sont en accord avec la théorie, aux erreurs près auxquelles il fallait s'attendre.",
        "Pour la réciproque, supposons que la fonction ne soit pas continue à l'origine.",
    ),
    "de": (
        "Wir zeigen, dass jede dieser Folgen einen Grenzwert hat, der nicht von der Reihenfolge der Glieder abhängt.",
        "Der Beweis ist kurz und benutzt nichts als die Definition einer kompakten Menge.",
        "Es wäre schön zu wissen, ob dieselbe Schranke auch für Graphen mit Schleifen gilt.",
        "Daraus ergibt sich ein Verfahren, das um einen festen Faktor schneller ist als das naheliegende.",
        "Im zweiten Abschnitt erinnern wir an einige Tatsachen über Gruppen, die später gebraucht werden.",
        "Die Teilchen bewegen sich auf geraden Bahnen, bis sie auf die Wand des Gefäßes treffen.",
        "Unsere Messungen stimmen innerhalb des zu erwartenden Fehlers mit der Theorie überein.",
        "Für die Umkehrung nehmen wir an, die Funktion sei im Ursprung nicht stetig.",
    ),
    "es": (
        "Demostramos que cada una de estas sucesiones tiene un límite, y que este no depende del orden de los términos.",
        "La demostración es corta y solo utiliza la definición de conjunto compacto.",
        "Sería interesante saber si la misma cota es válida para los grafos con lazos.",
        "De aquí se obtiene un algoritmo que es más rápido que el evidente por un factor constante.",
        "En la segunda sección recordamos algunos hechos sobre los grupos que se necesitan más adelante.",
        "Las partículas se mueven en línea recta hasta que chocan con la pared del recipiente.",
        "Nuestras mediciones coinciden con la teoría dentro del error que cabía esperar.",
        "Para el recíproco, supongamos que la función no es continua en el origen.",
    ),
    "it": (
        "Mostriamo che ciascuna di queste successioni ha un limite, e che esso non dipende dall'ordine dei termini.",
        "La dimostrazione è breve e usa soltanto la definizione di insieme compatto.",
        "Sarebbe interessante sapere se la stessa stima vale anche per i grafi con cappi.",
        "Ne segue un algoritmo che è più veloce di quello ovvio per un fattore costante.",
        "Nella seconda sezione ricordiamo alcuni fatti sui gruppi che saranno necessari in seguito.",
        "Le particelle si muovono lungo linee rette finché non incontrano la parete del recipiente.",
        "Le nostre misure sono in accordo con la teoria entro l'errore che ci si doveva aspettare.",
        "Per il viceversa, supponiamo che la funzione non sia continua nell'origine.",
    ),
    "pt": (
        "Mostramos que cada uma destas sucessões tem um limite, e que este não depende da ordem dos termos.",
        "A demonstração é curta e não usa nada além da definição de conjunto compacto.",
        "Seria interessante saber se a mesma estimativa também vale para grafos com laços.",
        "Daqui se obtém um algoritmo que é mais rápido do que o óbvio por um fator constante.",
        "Na segunda seção lembramos alguns fatos sobre grupos que serão necessários mais tarde.",
        "As partículas movem-se em linha reta até encontrarem a parede do recipiente.",
        "As nossas medições concordam com a teoria dentro do erro que era de esperar.",
        "Para a recíproca, suponhamos que a função não seja contínua na origem.",
    ),
    "nl": (
        "Wij laten zien dat elk van deze rijen een limiet heeft, en dat die niet van de volgorde van de termen afhangt.",
        "Het bewijs is kort en gebruikt niets anders dan de definitie van een compacte verzameling.",
        "Het zou aardig zijn te weten of dezelfde grens ook geldt voor grafen met lussen.",
        "Hieruit volgt een algoritme dat een vaste factor sneller is dan het voor de hand liggende.",
        "In het tweede hoofdstuk brengen wij enkele feiten over groepen in herinnering die later nodig zijn.",
        "De deeltjes bewegen langs rechte lijnen tot zij de wand van het vat raken.",
        "Onze metingen komen overeen met de theorie binnen de fout die te verwachten was.",
        "Voor de omkering nemen wij aan dat de functie in de oorsprong niet continu is.",
    ),
    "sv": (
        "Vi visar att var och en av dessa följder har ett gränsvärde, som inte beror på termernas ordning.",
        "Beviset är kort och använder ingenting annat än definitionen av en kompakt mängd.",
        "Det vore intressant att veta om samma gräns också gäller för grafer med öglor.",
        "Härav får man en algoritm som är snabbare än den uppenbara med en konstant faktor.",
        "I det andra avsnittet påminner vi om några egenskaper hos grupper som behövs längre fram.",
        "Partiklarna rör sig längs räta linjer tills de träffar kärlets vägg.",
        "Våra mätningar stämmer överens med teorin inom det fel som man kunde vänta sig.",
        "För omvändningen antar vi att funktionen inte är kontinuerlig i origo.",
    ),
    "pl": (
        "Pokazujemy, że każdy z tych ciągów ma granicę i że nie zależy ona od kolejności wyrazów.",
        "Dowód jest krótki i nie korzysta z niczego poza definicją zbioru zwartego.",
        "Byłoby ciekawe wiedzieć, czy to samo oszacowanie zachodzi dla grafów z pętlami.",
        "Stąd otrzymujemy algorytm, który jest szybszy od oczywistego o stały czynnik.",
        "W drugiej części przypominamy kilka faktów o grupach, które będą potrzebne później.",
        "Cząstki poruszają się po liniach prostych, dopóki nie natrafią na ścianę naczynia.",
        "Nasze pomiary zgadzają się z teorią w granicach błędu, którego należało się spodziewać.",
        "Aby udowodnić twierdzenie odwrotne, załóżmy, że funkcja nie jest ciągła w zerze.",
    ),
    "ru": (
        "Мы показываем, что каждая из этих последовательностей имеет предел, не зависящий от порядка членов.",
        "Доказательство короткое и не использует ничего, кроме определения компактного множества.",
        "Было бы интересно узнать, верна ли та же оценка для графов с петлями.",
        "Отсюда получается алгоритм, который быстрее очевидного в постоянное число раз.",
        "Во втором разделе мы напоминаем некоторые факты о группах, которые понадобятся позже.",
        "Частицы движутся по прямым линиям, пока не встретят стенку сосуда.",
        "Наши измерения согласуются с теорией в пределах ошибки, которой следовало ожидать.",
        "Для доказательства обратного предположим, что функция не является непрерывной в начале координат.",
    ),
    "zh-cn": (
        "我们证明这些数列中的每一个都有极限,并且极限不依赖于各项的顺序。",
        "证明很短,只用到了紧集的定义。",
        "如果能知道同样的界对于带有环的图是否成立,那将是很有意思的。",
        "由此我们得到一个算法,它比显然的方法快一个常数倍。",
        "在第二节中,我们回顾以后需要用到的关于群的一些事实。",
        "粒子沿着直线运动,直到碰到容器的壁为止。",
        "我们的测量结果在预期的误差范围之内与理论相符。",
        "反过来,假设这个函数在原点处不连续。",
    ),
}
INLINE = (
    "$x_{%d}$",
    "$f(x)=\\frac{x^{%d}}{n}$",
    "$\\alpha_{%d} \\in \\mathbf{R}$",
    "$\\lVert u \\rVert_{%d} \\le C$",
    "$G_{%d}$",
)
DISPLAY = (
    "\\begin{equation}\n\\sum_{k=0}^{%d} \\binom{n}{k} \\lambda^k = (1+\\lambda)^{n} + O\\left(\\frac{1}{n}\\right)\n\\end{equation}",
    "\\[ \\int_{0}^{%d} e^{-t^2} \\, dt \\le \\sqrt{\\pi} \\operatorname{Re} \\left( z_1 \\overline{z_2} \\right) \\]",
    "\\begin{align*}\na_{%d} &= b + \\mathcal{H}(\\phi) \\\\\n &\\le \\sup_{x \\in K} |g(x)| \\cdot \\| h \\|\n\\end{align*}",
)
LENGTH_CHARS = 6000  # of a composed body


def compose(language: str, seed: int, math_frac: float, num_chars: int = LENGTH_CHARS) -> Paper:
    """A paper of made-up content: sentences with formulas between, so that `math_frac` of the characters are mathematics."""
    rng = random.Random(f"{language} {seed}")
    pieces: list[str] = []
    num_prose = num_math = 0
    while num_prose + num_math < num_chars:
        if num_math < math_frac * (num_prose + num_math):
            pieces.append(rng.choice(INLINE if rng.random() < 0.6 else DISPLAY) % rng.randint(1, 99))
            num_math += len(pieces[-1])
        else:
            pieces.append(rng.choice(SENTENCES[language]) + ("\n\n" if rng.random() < 0.2 else ""))
            num_prose += len(pieces[-1])
    title, *abstract = rng.sample(SENTENCES[language], 5)
    return title.rstrip("."), " ".join(abstract), " ".join(pieces)


def forms(paper: Paper, seed: int) -> Iterator[Paper]:
    """The paper with its own title and abstract, with English ones, and with neither."""
    yield paper
    english = compose("en", seed, 0.0, 1)
    yield english[0], english[1], paper[2]
    yield "", "", paper[2]


def row(name: str, wanted: bool, papers: Sequence[Paper]) -> None:
    """Judge papers of one kind and print the line of the table: how many were judged wrongly, and milliseconds a paper."""
    started_s = time.process_time()
    verdicts = [check_language(*paper, Limits()) for paper in papers]
    mean_ms = (time.process_time() - started_s) / max(len(papers), 1) * 1000
    wrong = sum((verdict is None) != wanted for verdict in verdicts)
    said = [verdict.detail for verdict in verdicts if verdict is not None and wanted]
    judged = f"{wrong} lost" if wanted else f"{wrong} kept"
    print(
        f"| {name} | {len(papers):,} | {judged} ({wrong / max(len(papers), 1):.1%}) | {mean_ms:.2f} | {', '.join(said[:5])} |",
        flush=True,
    )


def composed_rows(num: int) -> None:
    """Ten languages and English, half mathematics; English with 80% mathematics as well."""
    for language in SENTENCES:
        papers = [form for seed in range(num) for form in forms(compose(language, seed, 0.5), seed)]
        row(f"{language}, composed, 50% mathematics", language == "en", papers)
    row(
        "en, composed, 80% mathematics",
        True,
        [form for seed in range(num) for form in forms(compose("en", seed, 0.8), seed)],
    )


def eprint_papers(folder: Path) -> Iterator[tuple[str, Paper]]:
    """(id, paper) of each real e-print that this repository's own stages turn into a text."""
    from data_prep.extraction import extract_source
    from data_prep.latex_cleaner import clean_latex

    metadata = {
        record["id"]: record for record in map(json.loads, (folder / "metadata.jsonl").read_text("utf-8").splitlines())
    }
    for path in sorted((folder / "src").iterdir()):
        extracted = extract_source(path.read_bytes(), path.name)
        if isinstance(extracted, Rejection):
            continue
        cleaned = clean_latex(extracted.source)
        if isinstance(cleaned, Rejection):
            continue
        record = metadata.get(parse_name(path.name)[0], {})
        yield (
            path.name,
            (record.get("title") or cleaned.title, record.get("abstract") or cleaned.abstract, cleaned.text),
        )


def eprint_rows(folder: Path) -> None:
    """Real e-prints, nearly all English: those that are not called so are listed, for a reader to check."""
    named = list(eprint_papers(folder))
    rejected = [name for name, paper in named if check_language(*paper, Limits())]
    row(f"e-prints of {folder}, not called English: {' '.join(rejected)}", True, [paper for _, paper in named])
    row("the same, title and abstract withheld", True, [("", "", paper[2]) for _, paper in named])
    started_s = time.process_time()
    for _, paper in named:
        langdetect_alone(" ".join(paper))
    print(
        f"| the same, langdetect alone on all of it | {len(named)} | | {(time.process_time() - started_s) / len(named) * 1000:.2f} | |"
    )


def langdetect_alone(text: str) -> str:
    """langdetect with its own settings: the first 10,000 characters, seven trials."""
    detector = language_profiles().create()
    detector.append(text)
    return str(detector.detect())


UNTRANSLATED = re.compile(
    r"(?i)\b(?:the|of|and|is|to|this|for|are|be|in|with|by)\b.*\b(?:the|of|and|is|to|this|for|are|be|with|by)\b"
)


def man_papers(folder: Path, language: str) -> Iterator[Paper]:
    """Manual pages in a language with formulas between the lines, half of the characters.

    Many pages are translated in part: lines with two small English words are left out, then pages of under 2,000 characters.
    """
    for path in sorted((folder / language).rglob("*.gz")):
        source = gzip.decompress(path.read_bytes()).decode("utf-8", "replace")
        lines = [
            re.sub(r"\\f.|\\[&|()\-][a-z]*|\\", "", line) for line in source.split("\n") if line[:1] not in (".", "'")
        ]
        if not language.startswith("man"):
            lines = [line for line in lines if not UNTRANSLATED.search(line)]
        rng, pieces, num_missing = random.Random(path.name), [], 0
        for line in lines:
            pieces.append(line)
            num_missing += len(line)
            while num_missing > 0:
                pieces.append(rng.choice(INLINE if rng.random() < 0.6 else DISPLAY) % rng.randint(1, 99))
                num_missing -= len(pieces[-1])
        if sum(map(len, lines)) >= 2000:
            yield "", "", "\n".join(pieces)


def man_rows(folder: Path) -> None:
    """Pages under LANGUAGE/man*/, and those of man1/ as English."""
    for path in sorted(folder.iterdir()):
        if re.fullmatch(r"[a-z]{2}(_[A-Z]{2})?", path.name):
            row(f"{path.name}, manual pages", False, list(man_papers(folder, path.name)))
    row("en, manual pages, the first 500", True, list(itertools.islice(man_papers(folder, "man1"), 500)))


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = Parser(description=__doc__)
    parser.add_argument(
        "--num",
        type=int,
        default=50,
        help="composed papers in each language, each in three forms (default: %(default)s)",
    )
    parser.add_argument("--eprints", type=Path, help="folder of real e-prints")
    parser.add_argument("--man", type=Path, help="folder of manual pages, say /usr/share/man")
    args = parser.parse_args(argv)
    started_s = time.process_time()
    guess_language("the first call loads the profiles")
    print(f"langdetect's profiles load in {time.process_time() - started_s:.2f} CPU s, once a process\n")
    print("| papers | number | judged wrongly | CPU ms / paper | called |\n|---|---|---|---|---|")
    composed_rows(args.num)
    if args.eprints:
        eprint_rows(args.eprints)
    if args.man:
        man_rows(args.man)
    return 0


if __name__ == "__main__":
    run(main)
