"""What we know about LaTeX, as tables: which commands go with how many arguments, which environments stay, which letters accents make.

In: nothing. Out: names. latex_macros.py and latex_cleaner.py walk these tables and hold no such knowledge themselves.
A table of commands gives each a signature of what to drop behind its name: `*` a star if there, `o` an option `[…]` if there,
`p` a pair `(…)` if there, `m` an argument, `g` a length such as `2pt plus 1pt` or `=\\hsize`, `=` a sign of equality if there, `n` a number,
character or name, `b` an amount such as `by 1`, `f` a file, `d` an argument in
braces if there. What follows stays as text.
"""

from typing import Final


def words(text: str) -> frozenset[str]:
    """The words of a table."""
    return frozenset(text.split())


# ---------------------------------------------------------------- environments

# Mathematics: kept as written, as far as its end. A starred form is understood.
MATH_ENVIRONMENTS: Final = words(
    """equation eqnarray align gather multline flalign alignat xalignat xxalignat displaymath math dmath dgroup dseries darray
    IEEEeqnarray empheq aligned mathpar mathparpagebreakable numcases subnumcases"""
)
# Not LaTeX inside: copied whole (SKIPPED ones dropped whole), before anything else is decided.
SKIPPED_ENVIRONMENTS: Final = words("comment filecontents filecontents* asy asydef pycode CCSXML")
RAW_ENVIRONMENTS: Final = SKIPPED_ENVIRONMENTS | words(
    "verbatim verbatim* Verbatim BVerbatim LVerbatim lstlisting minted alltt"
)
# Floats, tables and drawings, and lists of references: dropped with all they hold.
DRAWINGS: Final = words(
    """tikzpicture tikzcd picture pspicture pspicture* pgfpicture xy diagram circuitikz tikzcd* forest asy feynman fmffile
    fmfgraph fmfgraph* tikz tikzpicture* overpic axis psfrags pdfpic gnuplot"""
)
FLOATS: Final = words(
    """figure figure* table table* wrapfigure wraptable sidewaystable sidewaystable* sidewaysfigure sidewaysfigure* SCfigure
    SCtable longtable longtable* tabular tabular* tabularx tabulary subfigure subtable teaserfigure deluxetable deluxetable*
    floatingfigure floatingtable figwindow margintable marginfigure threeparttable supertabular xtabular
    turnfigure turntable planotable scheme chart tabu longtabu tblr longtblr talltblr NiceTabular NiceTabular* NiceTabularX xltabular tabbing
    listing listing* figurehere tablehere inlinefigure ytableau feynmandiagram"""
)
# Said elsewhere in the paper, or not printed at all.
UNPRINTED: Final = words("asciiabstract htmlabstract webabstract icmlauthorlist")
REFERENCES: Final = words(
    """thebibliography references references* chapthebibliography bibdiv biblist bibsection thereferences REFERENCES
    thebibliography*"""
)
REMOVED_ENVIRONMENTS: Final = DRAWINGS | FLOATS | REFERENCES | UNPRINTED
REMOVED_IN_MATH: Final = DRAWINGS | words("tabular tabular* figure table")
# Only layout: the tags go with their arguments, the content stays.
WRAPPERS: Final[dict[str, str]] = {
    **dict.fromkeys(
        words("""center centering flushleft flushright small footnotesize scriptsize tiny normalsize large Large LARGE huge Huge
        document frontmatter titlepage raggedright raggedleft sloppypar samepage landscape doublespace singlespace onehalfspace
        doublespacing singlespacing subequations widetext mathletters bf it em rm sl sc tt bfseries itshape
        onecolumn twocolumn strip boldmath group spreadlines fullwidth ruledtabular ruledtabulars mainmatter backmatter
        flushboth FlushLeft FlushRight Center linenomath nolinenumbers internallinenumbers linenumbers savenotes
        footnote nospace topmatter sffamily ttfamily scshape linenomath* singlespace* shaded* snugshade @twocolumnfalse
        @twocolumntrue"""),
        "*",
    ),
    "minipage": "ooom",
    "acronym": "o",
    "multicols": "mo",
    "multicols*": "mo",
    "spacing": "m",
    "adjustwidth": "mm",
    "adjustwidth*": "mm",
    "changemargin": "mm",
    "narrow": "mm",
    "tcolorbox": "o",
    "mdframed": "o",
    "framed": "",
    "shaded": "",
    "CJK": "omm",
    "CJK*": "omm",
    "otherlanguage": "m",
    "otherlanguage*": "m",
    "lrbox": "m",
    "turn": "m",
    "rotate": "m",
    "rotatebox": "m",
    "adjustbox": "m",
    "resizebox": "mm",
    "twocolumn": "o",
    "textblock": "mp",
    "textblock*": "mp",
    "parbox": "oom",
    "subarray": "m",
    "appendices": "",
    "savequote": "o",
    "color": "om",
    "addmargin": "om",
    "addmargin*": "om",
    "varwidth": "om",
    "boxedminipage": "om",
    "paracol": "m",
    "hangparas": "mm",
}
# Wrappers that may stand in the middle of a paragraph: a line that held only their tag goes with its line end.
QUIET_WRAPPERS: Final = words("subequations mathletters linenomath linenomath* internallinenumbers group spreadlines")
# Lists, whose option is layout.
LISTS: Final = {"itemize": "*o", "enumerate": "*o", "description": "*o", "list": "mm", "trivlist": "", "compactitem": "o",
         "compactenum": "o", "inparaenum": "o", "inparaitem": "o", "enumerate*": "o", "itemize*": "o", "asparaenum": "o", "asparaitem": "o",
         "asparadesc": "o", "inparadesc": "o", "compactdesc": "o", "quoting": "o", "lyxlist": "m", "labeling": "om", "tasks": "op",
         "easylist": "o", "IEEEbiography": "o"}  # fmt: skip
# The environments of thm-restate, whose second argument says of what kind they are.
RESTATED: Final = words("restatable restatable*")
# What stands in braces behind the tags of these is their text, no argument.
WITHOUT_ARGUMENTS: Final = words("abstract quote quotation verse acknowledgments acknowledgements acknowledgement acks")
ALGORITHMS: Final = {"algorithm": "o", "algorithmic": "o", "algorithm*": "o", "algorithm2e": "o"}

# ---------------------------------------------------------------- commands that go

# Nothing of these is text: name and arguments go.
DROPPED: Final[dict[str, str]] = {
    name: signature
    for signature, names in {
        "gg": "skip dimen count toks",
        "": """
            maketitle newpage clearpage cleardoublepage tableofcontents listoffigures listoftables noindent
            indent bigskip medskip smallskip centering raggedright raggedleft protect relax null hfill vfill
            vfil hss vss hline toprule midrule bottomrule frontmatter mainmatter backmatter balance
            appendixpage sloppy fussy onecolumn doublespacing singlespacing onehalfspacing normalfont bfseries
            mdseries itshape upshape slshape scshape ttfamily rmfamily sffamily boldmath unboldmath em bf it rm
            sl sc tt sf cal small footnotesize scriptsize tiny normalsize large Large LARGE huge Huge allowbreak
            nobreak leavevmode ignorespaces unskip xspace printindex makeindex flushbottom raggedbottom samepage
            goodbreak filbreak eject supereject endgraf obeylines obeyspaces magstep magstephalf bye nonumber
            notag strut hrulefill dotfill phantomsection begingroup endgroup bgroup egroup topmatter
            endtopmatter document enddocument nologo frenchspacing nonfrenchspacing tenpoint twelvepoint
            eightpoint ninepoint tenrm twelverm tenbf twelvebf sevenrm eightrm ninerm fiverm tenit tensl tentt
            endproclaim endremark enddemo enddefinition endexample endheading endsubheading endsubsubheading
            endtitle endauthor endaffil endaddress endkeywords endsubjclass endabstract enddate endthanks
            endemail endhead endsubhead endspecialhead endRefs makeatletter makeatother IEEEpeerreviewmaketitle
            IEEEdisplaynontitleabstractindextext pagewiselinenumbers linenumbers nolinenumbers narrower hfilneg
            vfilneg bigbreak medbreak smallbreak offinterlineskip nointerlineskip endinput FloatBarrier
            sloppypar glsresetall fi else or normalbaselines footnoterule nofiles listfiles
            doublespace singlespace draft today makelabel upright tracingmacros tracingcommands vcenter
            raggedcenter sectionfont restoregeometry scriptstyle textstyle displaystyle scriptscriptstyle limits nolimits""",
        "g": """
            hbox vbox vtop hskip vskip kern hsize vsize hoffset voffset parskip parindent baselineskip topmargin
            oddsidemargin evensidemargin textwidth textheight headsep headheight footskip tolerance hbadness
            vbadness pretolerance overfullrule hfuzz vfuzz abovedisplayskip belowdisplayskip
            abovedisplayshortskip belowdisplayshortskip lineskip lineskiplimit normalbaselineskip magnification
            leftskip rightskip hangindent hangafter penalty looseness widowpenalty clubpenalty topskip epsfxsize
            epsfysize jot arraycolsep tabcolsep columnsep footnotesep interdisplaylinepenalty pageno raise lower
            moveleft moveright mathsurround displayindent displaywidth interlinepenalty brokenpenalty
            binoppenalty relpenalty floatsep textfloatsep intextsep unitlength arrayrulewidth fboxsep fboxrule
            columnseprule emergencystretch doublehyphendemerits finalhyphendemerits adjdemerits spaceskip
            xspaceskip maxdepth splittopskip predisplaypenalty postdisplaypenalty vglue hglue mkern mskip
            itemsep parsep topsep partopsep leftmargin rightmargin listparindent labelwidth labelsep hrule vrule
            mag delimitershortfall delimiterfactor pdfoutput pdfcompresslevel interfootnotelinepenalty language medmuskip thinmuskip
            thickmuskip linepenalty openup tabskip
            nulldelimiterspace predisplaysize hyphenpenalty exhyphenpenalty showboxdepth showboxbreadth
            parfillskip abovecaptionskip belowcaptionskip fam tracingall settabs""",
        "n": "box copy unhbox unhcopy unvbox unvcopy lastbox closein closeout",
        "ng": "ht wd dp vsplit",
        "fm": "etocdepthtag",
        "nn": """
            catcode mathcode delcode lccode uccode sfcode chardef mathchardef countdef dimendef skipdef toksdef textfont scriptfont
            scriptscriptfont""",
        "gm": "halign valign",
        "md": "Title",
        "d": "Date Author AuthorNames corres firstnote secondnote aistatstitle aistatsauthor aistatsaddress nocollaboration",
        "nb": "advance multiply divide",
        "nm": "write",
        "nf": "openin openout",
        "=m": "headline footline everypar everymath everydisplay everyhbox everyvbox everycr output",
        "m=o": "tikzstyle",
        "pm": "vector",
        "=nggggggggg": "parshape",
        "m": """
            label index pagestyle thispagestyle pagenumbering bibliographystyle bibliography glsadd hyphenation
            input include includeonly graphicspath DeclareGraphicsExtensions usetikzlibrary hypersetup geometry
            theoremstyle phantom hphantom vphantom bibdata cbcolor stepcounter refstepcounter setstretch
            linespread newgeometry baselinestretch fontfamily fontseries fontshape selectlanguage foreignlanguage special
            acmDOI acmISBN acmYear addbibresource newlength newsavebox newcount newdimen newskip newmuskip newtoks newbox newfam newread newwrite usebox typeout message errmessage
            institutemark hypertarget pdfinfo thanksref markright fnsymbol alph Alph roman Roman arabic eqlabel
            setstcolor sethlcolor inst corref fnref tnoteref orcidID orcid ORCID TitleRunning titlerunning
            authorrunning tocauthor toctitle setpapersize lstset lstloadlanguages tikzset pgfplotsset
            copyrightyear acmVolume acmNumber acmArticle acmMonth
            acmJournal acmPrice setcopyright JHEP preprint reportnum ArXivNumber FirstPageHeading runninghead
            runningtitle runningauthor shorttitle shortauthors shortauthor articletype jname jvol journalname
            sectionmark chaptermark subsectionmark subsubsectionmark subfile biboptions orcidlink raisetag
            AtBeginDocument AtEndDocument AtEveryBibitem AtEveryCitekey floatstyle restylefloat usepgfplotslibrary tcbset tcbuselibrary
            psset linelabel pagerange volnumber firstpage pubvolume issuenum articlenumber externalbibliography appendixtitles
            IEEEpubid IEEEtriggeratref IEEEtriggercmd arxivnumber eads corauthref placefigure placetable journalinfo
            equalcont epsscale authorsaddresses acmBooktitle acmSubmissionID settopmatter correspondingauthor submitjournal terms
            CopyrightYear crdata numberofauthors fnm sur speaker FullConference runtitle reftitle asciiabstract htmlabstract webabstract
            printAffiliationsAndNotice leftheadtext rightheadtext pageheight pagewidth hcorrection vcorrection
            thebibliography arrayrulecolor doublerulesepcolor mdfsetup RestyleAlgo SetAlgoSkip SetAlgoNlRelativeSize SetAlCapSkip SetAlFnt SetVlineSkip
            tikzexternalize externaldocument markleft lefthead righthead urlstyle slugcomment citestyle
            setcitestyle bstctlcite epsfig psfig epsffile plotone BoxedEPSF centerps postscript hepsffile cline
            sisetup""",
        "mm": """
            setcounter addtocounter setlength addtolength settowidth settoheight settodepth numberwithin
            counterwithin counterwithout markboth DeclareGraphicsRule newfont fontsize newglossaryentry
            setbeamertemplate setbeamerfont colorlet crefformat Crefformat
            DeclareUnicodeCharacter addtokomafont setkomafont algrenewcommand bookmarksetup SetKwInOut
            SetKwFunction algnewcommand creflabelformat pretocmd apptocmd AtBeginEnvironment altaffiltext
            plottwo psfrag epsfigure multicolumn PackageWarning PackageWarningNoLine PackageInfo ClassWarning
            ClassWarningNoLine ClassInfo addtocontents crefalias @addtoreset @removefromreset @namedef icmlauthor icmlaffiliation
            icmlcorrespondingauthor icmlsetsymbol lstdefinestyle floatname etocsettagdepth
            belowpdfbookmark currentpdfbookmark newrefformat import mdfdefinestyle labelformat floatplacement newcites sbox SetInd
            defcitealias headers SetKwData SetKwArray SetKw SetKwInput SetKwHangingKw pgfmathsetmacro pgfmathtruncatemacro
            pgfmathsetlength conferenceinfo ShortHeadings AtEndEnvironment BeforeBeginEnvironment AfterEndEnvironment
            fancypagestyle etocsettocstyle crefrangeformat""",
        "mmmo": "newfloat category",
        "omo": "declaretheorem",
        "omom": "lstdefinelanguage multirow",
        "ommm": "newacronym newabbreviation",
        "ommmm": "newtcbtheorem",
        "omoom": "newtcolorbox",
        "omomo": "newmdtheoremenv",
        "ommom": "printcontents",
        "ommmmmm": "bibpunct",
        "*ommm": "rowcolors",
        "*mom": "newbibmacro renewbibmacro",
        "mommm": "dottedcontents",
        "mmm": "crefname Crefname newlist specialrule SetKwComment SetKwRepeat SetNlSty acroindefinite PackageError ClassError addcontentsline definecolor DeclareFontFamily contentsline",
        "mmmm": "SetKwProg SetKwFor DeclareMathSymbol DeclareSymbolFont usefont xpatchcmd",
        "mmmmm": "crefmultiformat patchcmd DeclareFontShape DeclareMathAlphabet SetSymbolFont",
        "mmmmmm": "SetMathAlphabet",
        "mmmmmmm": "SetKwIf plotfiddle jmlrheading",
        "*m": "enlargethispage nocite needspace Needspace",
        "*om": "author affil captionstar",
        "*mmmm": "titlespacing",
        "*mommmmo": "titleformat titlecontents",
        "om": """
            includepdf PassOptionsToPackage RequirePackage usepackage documentclass documentstyle LoadClass
            bibliographyunit acmConference lstinputlisting verbatiminput listinginput figcaption corauth ead cormark
            fnmark setlist thispdfpagelabel captionsetup received revised accepted published ccsdesc
            cortext tnotetext fntext nonumnote setdefaultlanguage setotherlanguage setmainfont setsansfont color
            pagecolor rowcolor cellcolor columncolor fancyhead fancyfoot fancyhf lhead rhead chead lfoot rfoot
            cfoot todo marginpar marginnote missingfigure caption subcaption keywords pacs PACS subjclass
            subject date volume thanks email address affiliation institute institution curraddr urladdr
            homepage altaffiliation altaffilmark title subtitle authors collaboration copyrightnotice MSC
            MSCcode ams ACM support authornote authornotemark titlenote subtitlenote city country state postcode
            streetaddress offprints correspondence icmltitle icmltitlerunning icmladdress icmlkeywords
            ShortTitle SuppressTitle authorinfo runauthor editor Editor communicated noteadd dochead pubyear
            journal issn includestandalone deleted newmdenv declaretheoremstyle fancyheadoffset epsfbox epsf rotatebox""",
        "omm": "pdfbookmark nomenclature DeclareSIUnit DeclareNewTOC rule",
        "*omm": "captionof DeclareFieldFormat",
        "mo": "newcounter",
        "mom": "newcolumntype DeclareTextCommand acrodef newacro acroplural",
        "o": """
            footnotemark linebreak nolinebreak pagebreak nopagebreak displaybreak printbibliography
            allowdisplaybreaks listoftodos tabularnewline addlinespace modulolinenumbers startcontents stopcontents""",
        "*oom": "includegraphics includesvg adjincludegraphics",
        "*momo": "newtheorem",
        "opm": "cmidrule",
        "mmmmmmmmm": "newtheoremstyle",
    }.items()
    for name in names.split()
}

# Those of them behind which a paragraph ends: where one had a line to itself, a blank line stays.
ENDS_PARAGRAPH: Final = words(
    """maketitle newpage clearpage cleardoublepage tableofcontents listoffigures listoftables bigskip medskip smallskip vskip vfill vfil
    vglue eject supereject endgraf bigbreak medbreak smallbreak bye hrule appendixpage frontmatter mainmatter backmatter topmatter
    endtopmatter endproclaim endremark enddemo enddefinition endexample endheading endsubheading endsubsubheading endtitle endauthor endaffil
    endaddress endkeywords endsubjclass endabstract enddate endthanks endemail endhead endsubhead endspecialhead endRefs title author
    date thanks address affiliation email keywords pacs PACS subjclass bibliography caption includegraphics obeylines"""
)
# Front matter of AMS-TeX, which \\end… of the same name may close instead of braces.
CLOSED_BY_END: Final = words("author affil address curraddr email thanks keywords subjclass date")

# The first arguments of these go, what follows them is text.
UNWRAPPED: Final[dict[str, str]] = {
    "textcolor": "om", "colorbox": "om", "fcolorbox": "omm", "parbox": "ooom", "raisebox": "moo", "makebox": "poo", "framebox": "poo",
    "scalebox": "mo", "resizebox": "*mm", "hyperref": "o", "hyperlink": "m", "glsdisp": "m", "glslink": "m", "foreignlanguage": "m", "fontsize": "mm", "rotatebox": "om",
    "adjustbox": "m", "adjustimage": "m", "shortstack": "o", "savebox": "moo", "multicolumn": "mm", "multirow": "omom", "put": "p", "makecell": "o",
    "ifthenelse": "m", "iftoggle": "m", "nottoggle": "m", "ifbool": "m", "notbool": "m",  # whose test only TeX can carry out
    **dict.fromkeys(words("""emph textbf textit texttt textsc textsf textrm textup textmd textsl textnormal underline uline text mbox
    fbox uppercase lowercase MakeUppercase MakeLowercase textsuperscript textsubscript selectfont
    IEEEPARstart PARstart dropcap Dropcap initial"""), ""),  # these begin a paragraph with a large letter: \\IEEEPARstart{T}{he}
    "lettrine": "o",
}  # fmt: skip

# Units of siunitx, as it prints them; prefixes and units are written one behind the other.
UNITS: Final = {
    "per": "/", "squared": "²", "cubed": "³", "percent": "\\%", "degree": "°", "degreeCelsius": "°C", "celsius": "°C", "angstrom": "Å", "micro": "µ",
    "metre": "m", "meter": "m", "second": "s", "gram": "g", "kilogram": "kg", "ampere": "A", "kelvin": "K", "mole": "mol", "candela": "cd",
    "hertz": "Hz", "newton": "N", "pascal": "Pa", "joule": "J", "watt": "W", "coulomb": "C", "volt": "V", "farad": "F", "ohm": "Ω", "siemens": "S",
    "weber": "Wb", "tesla": "T", "henry": "H", "lumen": "lm", "lux": "lx", "becquerel": "Bq", "gray": "Gy", "sievert": "Sv", "radian": "rad",
    "steradian": "sr", "minute": "min", "hour": "h", "day": "d", "litre": "L", "liter": "L", "tonne": "t", "hectare": "ha", "electronvolt": "eV",
    "dalton": "Da", "decibel": "dB", "bit": "bit", "byte": "B", "barn": "b", "arcsecond": "″", "arcminute": "′", "astronomicalunit": "au",
    "ms": "ms", "us": "µs", "ns": "ns", "ps": "ps", "fs": "fs", "as": "as", "fm": "fm", "pm": "pm", "nm": "nm", "um": "µm", "mm": "mm", "cm": "cm",
    "dm": "dm", "km": "km", "fg": "fg", "pg": "pg", "ng": "ng", "ug": "µg", "mg": "mg", "kg": "kg", "amu": "u", "pmol": "pmol", "nmol": "nmol",
    "umol": "µmol", "mmol": "mmol", "mol": "mol", "kmol": "kmol", "pA": "pA", "nA": "nA", "uA": "µA", "mA": "mA", "kA": "kA", "uL": "µL", "mL": "mL",
    "uV": "µV", "mV": "mV", "kV": "kV", "mW": "mW", "uW": "µW", "nW": "nW", "kW": "kW", "MW": "MW", "GW": "GW", "mHz": "mHz", "Hz": "Hz", "kHz": "kHz",
    "MHz": "MHz", "GHz": "GHz", "THz": "THz", "mN": "mN", "kN": "kN", "MN": "MN", "Pa": "Pa", "kPa": "kPa", "MPa": "MPa", "GPa": "GPa", "mK": "mK", "uK": "µK",
    "meV": "meV", "eV": "eV", "keV": "keV", "MeV": "MeV", "GeV": "GeV", "TeV": "TeV", "kJ": "kJ", "kWh": "kWh", "mohm": "mΩ", "kohm": "kΩ", "Mohm": "MΩ",
    "fF": "fF", "pF": "pF", "nF": "nF", "uF": "µF", "mF": "mF", "mH": "mH", "uH": "µH", "dB": "dB", "mT": "mT", "uT": "µT", "uC": "µC", "nC": "nC", "pC": "pC",
    "bar": "bar", "mbar": "mbar", "parsec": "pc", "pc": "pc", "lightyear": "ly", "clight": "c", "planckbar": "ħ", "electronmass": "mₑ", "knot": "kn", "mu": "µ",
    **{letter: letter for letter in "mgsAKNWVJTFCHSL"}, "cd": "cd", "rad": "rad", "arcsec": "″", "arcmin": "′", "micron": "µm", "ppm": "ppm", "per\\cent": "\\%",
    "femto": "f", "pico": "p", "nano": "n", "milli": "m", "centi": "c", "deci": "d", "hecto": "h", "kilo": "k", "mega": "M", "giga": "G", "tera": "T",
    "peta": "P", "kibi": "Ki", "mebi": "Mi", "gibi": "Gi", "tebi": "Ti",
}  # fmt: skip

UNIT_PREFIXES: Final = words(
    "mu femto pico nano micro milli centi deci hecto kilo mega giga tera peta kibi mebi gibi tebi per"
)
UNIT_POWERS: Final = {"square": "²", "cubic": "³"}  # these stand before their unit
# The signs of small numbers above and below the line.
RAISED: Final = str.maketrans("-+−0123456789", "⁻⁺⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
LOWERED: Final = str.maketrans("-+−0123456789", "₋₊₋₀₁₂₃₄₅₆₇₈₉")

# Commands with several arguments: what goes first, how many arguments follow, and what is printed of them.
PATTERNS: Final[dict[str, tuple[str, int, str]]] = {
    "discretionary": ("mm", 1, "{}"), "replaced": ("o", 2, "{0}"), "added": ("o", 1, "{}"), "mintinline": ("om", 1, "{}"),
    "epigraph": ("", 2, "{}\n{}\n"), "grantsponsor": ("m", 2, "{0}"), "grantnum": ("om", 1, "{}"),
    # algorithm2e: {condition}{block}; in algpseudocode the block is not in braces, and what stands before the first {} is printed
    "If": ("p", 2, "if {}\n{}\nend\n"), "uIf": ("p", 2, "if {}\n{}\n"), "lIf": ("p", 2, "if {} then {}\n"),
    "ElseIf": ("p", 2, "else if {}\n{}\nend\n"), "uElseIf": ("p", 2, "else if {}\n{}\n"), "lElseIf": ("p", 2, "else if {} then {}\n"),
    "Else": ("p", 1, "else\n{}\nend\n"), "uElse": ("p", 1, "else\n{}\n"), "lElse": ("p", 1, "else {}\n"),
    "eIf": ("p", 3, "if {}\n{}\nelse\n{}\nend\n"), "leIf": ("p", 3, "if {} then {} else {}\n"),
    "For": ("p", 2, "for {}\n{}\nend\n"), "lFor": ("p", 2, "for {} do {}\n"), "ForEach": ("p", 2, "for each {}\n{}\nend\n"),
    "lForEach": ("p", 2, "for each {} do {}\n"), "ForAll": ("p", 2, "for all {}\n{}\nend\n"), "lForAll": ("p", 2, "for all {} do {}\n"),
    "While": ("p", 2, "while {}\n{}\nend\n"), "lWhile": ("p", 2, "while {} do {}\n"),
    "Repeat": ("p", 2, "repeat\n{1}\nuntil {0}\n"), "lRepeat": ("p", 2, "repeat {1} until {0}\n"),
    "Switch": ("p", 2, "switch {}\n{}\nend\n"), "Case": ("p", 2, "case {}\n{}\nend\n"), "uCase": ("p", 2, "case {}\n{}\n"),
    "Other": ("p", 1, "otherwise\n{}\nend\n"), "Begin": ("p", 1, "begin\n{}\nend\n"),
    "KwIn": ("", 1, "Input: {}\n"), "KwOut": ("", 1, "Output: {}\n"), "KwData": ("", 1, "Data: {}\n"), "KwResult": ("", 1, "Result: {}\n"),
    "Input": ("", 1, "Input: {}\n"), "Output": ("", 1, "Output: {}\n"), "KwRet": ("", 1, "return {}"), "KwInput": ("", 1, "Input: {}\n"),
    "KwOutput": ("", 1, "Output: {}\n"), "Comment": ("*o", 1, " ▷ {}"), "COMMENT": ("", 1, " ▷ {}"), "tcp": ("*o", 1, " // {}"), "tcc": ("*o", 1, " /* {} */"),
    "Call": ("", 2, "{}({})"), "Function": ("", 2, "function {}({})"), "Procedure": ("", 2, "procedure {}({})"),
}  # fmt: skip

# ---------------------------------------------------------------- commands that stay

SECTIONS: Final = words("part chapter section subsection subsubsection paragraph subparagraph")
# Headings of plain TeX, AMS-TeX and other classes, with the LaTeX that they become; the argument is in braces.
HEADINGS: Final = {"newsec": "section", "subsec": "subsection", "subsubsec": "subsubsection", "heading": "section", "subheading": "subsection",
            "head": "section", "subhead": "subsection", "specialhead": "section", "mysection": "section", "Section": "section",
            "IEEEsection": "section", "addsec": "section", "addchap": "chapter", "addpart": "part", "minisec": "subsubsection", "specialsection": "section", "chap": "chapter", "sect": "section"}  # fmt: skip
CITES: Final = words(
    """cite citep citet citealp citealt citeauthor citeyear citeyearpar Cite Citep Citet Citealp Citealt Citeauthor citenum onlinecite
    parencite textcite autocite footcite fullcite smartcite supercite parencites textcites autocites footfullcite citetitle
    citename Cites Parencites Textcites Autocites footcites smartcites supercites shortcite citeasnoun citeN citeNP shortciteN cites rcite refcite citen citefull  Parencite Textcite Autocite
    citeA shortciteA citeNN citeANP citeyearNP citeANN shortciteNP fullciteA citeonline possessivecite citetalias citepalias bibentry newcite"""
)
# After these come several citations, each with its options.
MULTIPLE_CITES: Final = words(
    "cites Cites parencites Parencites textcites Textcites autocites Autocites footcites footfullcites smartcites supercites"
)
TEXTUAL_CITES: Final = words(
    "citet Citet textcite Textcite citealt citeauthor Citeauthor citeasnoun citeN shortciteN refcite onlinecite citeA shortciteA possessivecite citealp citenum citetitle fullcite bibentry newcite"
)
REFS: Final = {"ref": "*", "pageref": "*", "eqref": "(*)", "autoref": "*", "cref": "*", "Cref": "*", "vref": "*", "nameref": "*", "prettyref": "*",
        "subref": "*", "labelcref": "*", "namecref": "*", "thref": "*", "fref": "*", "Fref": "*", "sref": "*", "vpageref": "*", "fullref": "*",
        "zref": "*", "autopageref": "*", "cpageref": "*", "ref*": "*", "lcnamecref": "*", "Autoref": "*", "Vref": "*",
        "eqrefs": "(*)", "secref": "*", "crefrange": "*", "cpagerefrange": "*"}  # fmt: skip
TWO_ARGUMENT_REFS: Final = words("crefrange Crefrange cpagerefrange vrefrange")
# Words after which a sentence needs an object: a citation behind one of them leaves `[*]`, any other goes.
NEED_OBJECT: Final = words(
    """in see of by from follow adapt cite quote to with e.g. cf. cf ref. refs. ref refs reference references and or following also than as per via for on at
    into under work works paper papers article articles book books e.g eg i.e. both method approach result results theorem lemma proposition
    example examples instance publication publications review reviews monograph monographs textbook textbooks website site thesis lecture lectures report
    section chapter page corollary eq. eqs. notably since that are is was where when while extends extend extending generalizes generalize improves
    improve proves prove shows show compare consult after before between using use used uses like unlike given survey surveys"""
)

SYMBOLS: Final = {
    "ss": "ß", "SS": "SS", "o": "ø", "O": "Ø", "l": "ł", "L": "Ł", "ae": "æ", "AE": "Æ", "oe": "œ", "OE": "Œ", "aa": "å", "AA": "Å",
    "i": "i", "j": "j", "dh": "ð", "DH": "Ð", "th": "þ", "TH": "Þ", "dj": "đ", "DJ": "Đ", "ng": "ŋ", "NG": "Ŋ", "S": "§", "P": "¶",
    "copyright": "©", "textcopyright": "©", "pounds": "£", "textsterling": "£", "dag": "†", "ddag": "‡", "ldots": "…", "dots": "…",
    "textellipsis": "…", "dotsc": "…", "lbrack": "[", "rbrack": "]", "LaTeX": "LaTeX", "LaTeXe": "LaTeX2e", "TeX": "TeX", "AmS": "AMS", "AmSTeX": "AMS-TeX",
    "BibTeX": "BibTeX", "XeTeX": "XeTeX", "LuaTeX": "LuaTeX", "pdfTeX": "pdfTeX", "textregistered": "®", "texttrademark": "™",
    "textdegree": "°", "textbackslash": "\\textbackslash ", "textasciitilde": "~", "textasciicircum": "^", "textunderscore": "_", "textbar": "|",
    "textless": "<", "textgreater": ">", "slash": "/", "textendash": "–", "textemdash": "—", "textquotedblleft": "“", "textquotedblright": "”",
    "textquoteleft": "'", "textquoteright": "'", "textquotesingle": "'", "textquotedbl": '"', "lq": "'", "rq": "'", "guillemotleft": "«", "guillemotright": "»",
    "guilsinglleft": "‹", "guilsinglright": "›", "og": "«", "fg": "»", "euro": "€", "EUR": "€", "texteuro": "€", "textmu": "µ", "micro": "µ",
    "textbullet": "•", "textperiodcentered": "·", "textexclamdown": "¡", "textquestiondown": "¿", "textordfeminine": "ª", "textordmasculine": "º",
    "textsection": "§", "textparagraph": "¶", "textdagger": "†", "textdaggerdbl": "‡", "textdollar": "\\$", "textbraceleft": "\\{", "textbraceright": "\\}",
    "quad": " ", "qquad": " ", "enspace": " ", "enskip": " ", "thinspace": " ", "space": " ", "nobreakspace": " ", "newline": "\n", "par": "\n\n", "cr": "\n",
    "tabularnewline": "\n", "crcr": "\n", "break": "\n", "nobreakdash": "", "-": "", "ier": "er", "textnumero": "№", "No": "№", "checkmark": "✓", "textonehalf": "½",
    "textonequarter": "¼", "texttimes": "×", "textpm": "±", "hfill": " ", "hfil": " ", "hyp": "-", "textminus": "−", "textrightarrow": "→",
    "textleftarrow": "←", "texttildelow": "~", "textasteriskcentered": "*", "textohm": "Ω", "textperthousand": "‰", "permil": "‰", "perthousand": "‰",
    "textcelsius": "°C", "celsius": "°C", "degree": "°", "micron": "µm", "LyX": "LyX", "eTeX": "e-TeX", "AmSLaTeX": "AMS-LaTeX",
    "glqq": "„", "grqq": "“", "glq": "‚", "grq": "‘", "flqq": "«", "frqq": "»", "flq": "‹", "frq": "›", "quotedblbase": "„", "quotesinglbase": "‚",
    "proofname": "Proof", "figurename": "Figure", "tablename": "Table", "abstractname": "Abstract",
    "answerYes": "[Yes]", "answerNo": "[No]", "answerNA": "[NA]", "answerTODO": "[TODO]",
    # astronomy: a sign above the decimal point is written before it
    "arcsec": "″", "arcmin": "′", "degr": "°", "farcs": "″.", "farcm": "′.", "fdg": "°.", "fh": "ʰ.", "fm": "ᵐ.", "fs": "ˢ.", "fd": "ᵈ.", "fp": "ᵖ.",
}  # fmt: skip
# Commands that put their last argument in quotation marks, and what stands before it.
QUOTES: Final = {"enquote": "*", "textquote": "*oo", "blockquote": "*oo", "foreignquote": "*m", "hyphenquote": "*m", "textcquote": "*oom",
          "blockcquote": "*oom", "foreigntextquote": "*moo", "say": ""}  # fmt: skip
# The abbreviations of the classes of computer vision: a point follows unless one is there, then a blank unless punctuation is.
DOTTED: Final = {
    "ie": "i.e", "Ie": "I.e", "eg": "e.g", "Eg": "E.g", "cf": "cf", "Cf": "Cf", "etc": "etc", "etal": "et al", "wrt": "w.r.t", "vs": "vs", "aka": "a.k.a",
    "iid": "i.i.d", "dof": "d.o.f", "onedot": "", "@onedot": "",
}  # fmt: skip
# Plain TeX's floats, which end at \\endinsert.
INSERTS: Final = words("topinsert midinsert pageinsert")
FOOTNOTES: Final = words(
    "footnote footnotetext blfootnote tablefootnote foot endnote sidenote vfootnote symbolfootnote blankfootnote"
)
# Drawings whose last argument in braces holds them, and the commands between which others stand.
DRAWN: Final = words("xymatrix xygraph tikzcdset chemfig qtree Tree")
DRAWN_UNTIL: Final = {
    "xy": "\\endxy",
    "diagram": "\\enddiagram",
    "pspicture": "\\endpspicture",
    "picture": "\\endpicture",
}
# Signs of \\ding: (first and last number, character of the first), and those out of their row.
DING_ROWS: Final = ((33, 126, 0x2701), (161, 167, 0x2761), (172, 181, 0x2460), (182, 254, 0x2776))
DINGS: Final = {
    37: "☎",
    42: "☛",
    43: "☞",
    72: "★",
    108: "●",
    110: "■",
    115: "▲",
    116: "▼",
    117: "◆",
    119: "◗",
    168: "♣",
    169: "♦",
    170: "♥",
    171: "♠",
}
# The accents of plain TeX's fonts, by number.
ACCENT_NUMBERS: Final = {
    18: "`",
    19: "'",
    20: "v",
    21: "u",
    22: "=",
    23: "r",
    24: "c",
    94: "^",
    95: ".",
    125: "H",
    126: "~",
    127: '"',
}
# The words that algorithmic and algpseudocode print for their commands.
ALGORITHM_WORDS: Final = {
    name: text
    for names, text in (
        ("STATE State STATEx Statex", ""), ("FOR For", "for "), ("FORALL ForAll", "for all "), ("ENDFOR EndFor", "end for "), ("IF If", "if "),
        ("ELSE Else", "else "), ("ELSIF ElsIf", "else if "), ("ENDIF EndIf", "end if "), ("WHILE While", "while "),
        ("ENDWHILE EndWhile", "end while "), ("REPEAT Repeat", "repeat "), ("UNTIL Until", "until "), ("LOOP Loop", "loop "),
        ("ENDLOOP EndLoop", "end loop "), ("RETURN Return", " return "), ("REQUIRE Require", "Require: "), ("ENSURE Ensure", "Ensure: "),
        ("Function", "function "), ("EndFunction", "end function "), ("Procedure", "procedure "), ("EndProcedure", "end procedure "),
        ("AND", " and "), ("OR", " or "), ("XOR", " xor "), ("NOT", "not "), ("TO KwTo", " to "), ("TRUE", "true"), ("FALSE", "false"), ("PRINT", "print "),
        ("INPUT", "Input: "), ("OUTPUT", "Output: "),
    )
    for name in names.split()
}  # fmt: skip
# A control symbol in prose and what it becomes; the rest are accents or go.
CONTROL_SYMBOLS: Final = {
    "%": "\\%", "$": "\\$", "{": "\\{", "}": "\\}", "&": "&", "#": "#", "_": "_", " ": " ", "\n": "\n", "\t": " ", ",": " ", ";": " ",
    ":": " ", ">": " ", "!": "", "/": "", "-": "", "@": "", "*": "", "+": "", "|": "", "<": "",
}  # fmt: skip
# Accents: the combining character that follows the letter.
ACCENTS: Final = {
    "`": "\u0300", "'": "\u0301", "^": "\u0302", "~": "\u0303", '"': "\u0308", "=": "\u0304", ".": "\u0307", "u": "\u0306", "v": "\u030c",
    "H": "\u030b", "c": "\u0327", "d": "\u0323", "b": "\u0331", "k": "\u0328", "r": "\u030a", "t": "\u0361", "C": "\u030f",
}  # fmt: skip

# ---------------------------------------------------------------- macros

# The cleaner reads these itself: a redefinition changes how they look, not what they mean.
PROTECTED: Final = (
    SECTIONS
    | words(
        """begin end item label ref cite document documentclass documentstyle maketitle title author date input include footnote caption
    usepackage RequirePackage thebibliography bibliography bibliographystyle bibitem par def let newcommand renewcommand emph textbf textit the frac left right
    today thanks footnotetext footnotemark includegraphics index newblock appendix appendixname"""
    )
    | frozenset("\\()[]{}$%&# ")
)
# Commands that take an argument: a macro of several tokens that stands directly behind one is put in braces.
ARGUMENT_TAKERS: Final = words(
    """frac tfrac dfrac cfrac sqrt hat widehat tilde widetilde bar overline underline vec dot ddot check breve acute grave mathring mathbf mathrm mathcal
    mathbb mathfrak mathsf mathit mathscr boldsymbol bm pmb text textbf textit textrm mbox operatorname overset underset stackrel overbrace underbrace
    overrightarrow overleftarrow binom tbinom dbinom emph"""
)
CONDITIONALS: Final = words(
    """iffalse iftrue ifx ifnum ifdim ifodd ifcase if ifcat ifdefined ifcsname ifvmode ifhmode ifinner ifvoid ifhbox ifvbox ifeof ifmmode"""
)
# Names that start with "if" and have no \fi.
NOT_CONDITIONALS: Final = words(
    """iff ifthenelse iflanguage ifstrequal ifstrempty ifblank ifnotblank ifdefempty ifundef ifdef ifcsdef ifcsundef ifboolexpr ifbool iftoggle
    ifnumcomp ifnumequal ifpackageloaded ifcitation ifentrytype iffieldundef ifnextchar ifempty ifinlist ifstar ifcsstring ifblock IfFileExists
    ifdefstring ifnumgreater ifnumless ifnumodd ifdimcomp ifdimequal if@"""
)
# Conditionals that packages define, as they stand in a run of pdfLaTeX.
PACKAGE_FLAGS: Final = {
    "ifpdf": True, "ifPDFTeX": True, "ifpdftex": True, "ifxetex": False, "ifXeTeX": False, "ifluatex": False, "ifLuaTeX": False, "ifvtex": False,
    "ifdvi": False, "ifOnline": False, "ifCLASSOPTIONcompsoc": False, "ifCLASSOPTIONcaptionsoff": False, "ifCLASSINFOpdf": True,
    "ifCLASSOPTIONonecolumn": False, "ifCLASSOPTIONpeerreview": False,
}  # fmt: skip
