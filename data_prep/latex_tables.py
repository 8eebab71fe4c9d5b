"""What we know about LaTeX, as tables: which commands go with how many arguments, which environments stay, which letters accents make.

In: nothing. Out: names. latex_macros.py and latex_cleaner.py walk these tables and hold no such knowledge themselves.
A table of commands gives each a signature of what to drop behind its name: `*` a star if there, `o` an option `[…]` if there,
`p` a pair `(…)` if there, `m` an argument, `g` a length such as `2pt plus 1pt` or `=\\hsize`. What follows stays as text.
"""


def words(text: str) -> frozenset[str]:
    """The words of a table."""
    return frozenset(text.split())


# ---------------------------------------------------------------- environments

# Mathematics: kept as written, as far as its end. A starred form is understood.
MATH_ENVIRONMENTS = words(
    """equation eqnarray align gather multline flalign alignat xalignat xxalignat displaymath math dmath dgroup dseries darray
    IEEEeqnarray empheq aligned"""
)
# Not LaTeX inside: copied whole (SKIPPED ones dropped whole), before anything else is decided.
SKIPPED_ENVIRONMENTS = words("comment filecontents filecontents* asy asydef pycode CCSXML")
RAW_ENVIRONMENTS = SKIPPED_ENVIRONMENTS | words(
    "verbatim verbatim* Verbatim BVerbatim LVerbatim lstlisting minted alltt"
)
# Floats, tables and drawings, and lists of references: dropped with all they hold.
DRAWINGS = words(
    """tikzpicture tikzcd picture pspicture pspicture* pgfpicture xy diagram circuitikz tikzcd* forest asy feynman fmffile
    fmfgraph fmfgraph* prooftree* overpic axis psfrags pdfpic gnuplot"""
)
FLOATS = words(
    """figure figure* table table* wrapfigure wraptable sidewaystable sidewaystable* sidewaysfigure sidewaysfigure* SCfigure
    SCtable longtable longtable* tabular tabular* tabularx tabulary subfigure subtable teaserfigure deluxetable deluxetable*
    floatingfigure floatingtable figwindow margintable marginfigure algorithm2e_figure threeparttable supertabular xtabular
    tabbing_table turnfigure turntable planotable scheme chart plate mytable"""
)
REFERENCES = words(
    """thebibliography references references* chapthebibliography bibdiv biblist bibsection thereferences REFERENCES
    thebibliography*"""
)
REMOVED_ENVIRONMENTS = DRAWINGS | FLOATS | REFERENCES
REMOVED_IN_MATH = DRAWINGS | words("tabular tabular* figure table")
# Only layout: the tags go with their arguments, the content stays.
WRAPPERS: dict[str, str] = {
    **dict.fromkeys(
        """center centering flushleft flushright small footnotesize scriptsize tiny normalsize large Large LARGE huge Huge
        document frontmatter titlepage raggedright raggedleft sloppypar samepage landscape doublespace singlespace onehalfspace
        doublespacing singlespacing subequations widetext acknowledgments_ mathletters bf it em rm sl sc tt bfseries itshape
        onecolumn twocolumn strip boldmath group spreadlines fullwidth ruledtabular ruledtabulars CJK_ mainmatter backmatter
        flushboth FlushLeft FlushRight Center linenomath nolinenumbers internallinenumbers linenumbers savenotes
        footnote nospace changemargin_ topmatter sffamily ttfamily scshape""".split(),
        "*",
    ),
    "minipage": "ooom",
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
}
# Lists, whose option is layout.
LISTS = {"itemize": "*o", "enumerate": "*o", "description": "*o", "list": "mm", "trivlist": "", "compactitem": "o",
         "compactenum": "o", "inparaenum": "o", "inparaitem": "o", "enumerate*": "o", "itemize*": "o"}  # fmt: skip
ALGORITHMS = {"algorithm": "o", "algorithmic": "o", "algorithm*": "o", "algorithm2e": "o"}

# ---------------------------------------------------------------- commands that go

# Nothing of these is text: name and arguments go.
DROPPED: dict[str, str] = {
    name: signature
    for signature, names in {
        "": """maketitle newpage clearpage cleardoublepage pagebreak_ tableofcontents listoffigures listoftables noindent indent par_
        bigskip medskip smallskip centering raggedright raggedleft protect relax null hfill vfill hfil vfil hss vss hline toprule
        midrule bottomrule frontmatter mainmatter backmatter balance appendixpage sloppy fussy onecolumn doublespacing
        singlespacing onehalfspacing normalfont bfseries mdseries itshape upshape slshape scshape ttfamily rmfamily sffamily
        boldmath unboldmath em bf it rm sl sc tt sf cal small footnotesize scriptsize tiny normalsize large Large LARGE huge
        Huge allowbreak break_ nobreak leavevmode ignorespaces unskip xspace qed_ printindex makeindex flushbottom raggedbottom
        samepage goodbreak filbreak eject supereject endgraf obeylines obeyspaces magstep magstephalf bye nopagebreak_ goodbreak
        noalign_ nonumber notag unhbox strut hrulefill dotfill phantomsection displaybreak_ begingroup endgroup bgroup egroup
        topmatter endtopmatter document enddocument overfullrule_ nologo frenchspacing nonfrenchspacing tenpoint twelvepoint
        eightpoint ninepoint tenrm twelverm tenbf twelvebf sevenrm eightrm ninerm fiverm tenit tensl tentt
        endproclaim endremark enddemo enddefinition endexample endheading endsubheading endsubsubheading endtitle endauthor endaffil endaddress
        endkeywords endsubjclass endabstract enddate endthanks endemail endhead endsubhead endspecialhead endRefs
        makeatletter makeatother twocolumn_ IEEEpeerreviewmaketitle IEEEraisesectionheading_ IEEEdisplaynontitleabstractindextext
        pagewiselinenumbers linenumbers nolinenumbers narrower parindent_ hfilneg vfilneg bigbreak medbreak smallbreak
        offinterlineskip nointerlineskip endinput xspace_ FloatBarrier iffalse_ qedhere_ acknowledgments_ sloppypar
        glsresetall fi else or normalbaselines ragged-right footnoterule hangindent_ vspace_ nofiles listfiles
        allowdisplaybreaks_ printbibliography_ bibliographystyle_ doublespace singlespace draft today makelabel
        upright tracingmacros tracingcommands quad_ hbox vbox vtop vcenter mbox_ rightskip_ leftskip_ ensuremath_
        raggedcenter sectionfont scriptstyle textstyle displaystyle scriptscriptstyle limits nolimits""",
        "m": """label index pagestyle thispagestyle pagenumbering vspace_ bibliographystyle bibliography color_ glsadd usepackage_
        hyphenation input include includeonly graphicspath DeclareGraphicsExtensions setlength_ usetikzlibrary hypersetup
        nocite_ vglue_ geometry theoremstyle phantom hphantom vphantom listoftodos_ bibdata cbcolor newcounter_ stepcounter
        refstepcounter setstretch linespread baselinestretch fontfamily fontseries fontshape selectlanguage foreignlanguage
        captionsetup_ special write_ immediate_ numberwithin_ counterwithin_ ccsdesc_ acmDOI acmISBN acmYear acmConference_
        addbibresource textwidth_ newlength newsavebox usebox sbox_ hskip_ typeout message errmessage fancyhead_
        fancyfoot_ lhead_ PACS_ institutemark cellcolor_ rowcolor_ hypertarget pdfbookmark_ pdfinfo thanksref
        markright symbolfootnote_ fnsymbol alph Alph roman Roman arabic eqlabel newdimen_ setstcolor sethlcolor vref_
        texorpdfstring_ bibitem_ inst corref fnref tnoteref orcidID orcid ORCID email_ csname_ TitleRunning titlerunning
        authorrunning tocauthor toctitle setpapersize cref_ doi_ lstset lstloadlanguages tikzset pgfplotsset tikzstyle_
        newbox newtoks newskip newmuskip newread newwrite penalty_ looseness_ copyrightyear acmVolume acmNumber acmArticle
        acmMonth acmJournal acmPrice setcopyright received_ revised_ accepted_ JHEP preprint reportnum ArXivNumber FirstPageHeading
        runninghead runningtitle runningauthor shorttitle shortauthors shortauthor articletype jname jvol journalname
        tikzexternalize externaldocument frontmatter_ markleft definecolor_ ead_ lefthead righthead urlstyle
        hspace_ fbox_ slugcomment citestyle bibpunct_ setcitestyle bibname_ thispagestyle_ bstctlcite""",
        "mm": """setcounter addtocounter setlength addtolength settowidth settoheight settodepth addtolength_ rule_ numberwithin counterwithin
        counterwithout markboth DeclareGraphicsRule newfont lowercase_ fontsize pdfbookmark_ newglossaryentry newacronym
        setbeamertemplate setbeamercolor_ setbeamerfont titleformat_ hyperlink_ crefname Crefname definecolor_ colorlet
        crefformat Crefformat DeclareUnicodeCharacter DeclareMathSymbol_ addtokomafont setkomafont algrenewcommand
        captionof_ bookmarksetup SetKwInOut SetKwFunction algnewcommand newcolumntype_ creflabelformat
        CJKfamily_ sethead_ patchcmd_ pretocmd apptocmd AtBeginEnvironment enlargethispage_""",
        "mmm": "addcontentsline definecolor fancypagestyle_ DeclareFontFamily DeclareMathAlphabet_ titlespacing_ crefrangeformat addtocontents_ contentsline",
        "mmmm": "DeclareMathSymbol DeclareSymbolFont SetSymbolFont SetMathAlphabet xpatchcmd",
        "mmmmm": "DeclareFontShape DeclareMathAlphabet DeclareMathDelimiter_ SetMathAlphabet_",
        "*m": "vspace hspace enlargethispage nocite hspace_ titlespacing_",
        "*mm": "titlespacing_",
        "*mmmm": "titlespacing",
        "om": """includepdf PassOptionsToPackage RequirePackage usepackage documentclass documentstyle LoadClass footnotemark_ todo_
        bibliographyunit acmConference geometry_ lstinputlisting verbatiminput listinginput marginpar_ newtheoremstyle_
        hypersetup_ pdfbookmark ead cormark fnmark setlist sisetup_ tikzstyle addcontentsline_ thispdfpagelabel captionsetup
        received revised accepted published ccsdesc cortext tnotetext fntext nonumnote setdefaultlanguage setotherlanguage
        setmainfont setsansfont printbibliography_ color pagecolor rowcolor cellcolor columncolor fancyhead fancyfoot
        fancyhf lhead rhead chead lfoot rfoot cfoot todo marginpar marginnote missingfigure caption subcaption captionof_
        keywords pacs PACS subjclass subject date dedicatory_ volume thanks email address affiliation affil affiliations_ institute institution
        curraddr urladdr homepage altaffiliation altaffilmark author title subtitle authors tableofcontents_ collaboration
        shorttitle_ copyrightnotice MSC MSCcode ams ACM altaffiltext_ support authornote authornotemark titlenote subtitlenote
        orcid_ city country state postcode streetaddress department_ offprints correspondence name_ icmltitle icmltitlerunning
        icmlauthor_ icmladdress icmlkeywords icmlcorrespondingauthor_ runauthor_ ShortTitle SuppressTitle
        tikz_ newblock_ authorinfo runauthor received_ editor Editor communicated noteadd  dochead pubyear journal issn""",
        "omm": "captionof sectionmark_ subsectionmark_ DeclareNewTOC",
        "ommmm": "tikzpicturecmd_",
        "mo": "newcounter linebreakmo_ footnotemark_ twocolumnmo_",
        "mom": "newcolumntype DeclareTextCommand newunicodechar_ newenvironment_ newcommand_",
        "mm_": "altaffiltext",
        "o": "footnotemark linebreak nolinebreak pagebreak nopagebreak displaybreak printbibliography smallskip_ newline_ cr_ twocolumn allowdisplaybreaks listoftodos printindex_ tabularnewline addlinespace cmidrule_ vskipo_",
        "*om": "caption_ captionstar",
        "*momo": "newtheorem_",
        "*oom": "includegraphics includesvg includegraphics_ adjincludegraphics",
        "oom": "epsfig_ psfig_",
        "m_": "epsfig psfig epsffile epsfbox_ plotone psfrag_ BoxedEPSF centerps postscript hepsffile",
        "om_": "epsfbox epsf",
        "mm__": "plottwo psfrag epsfigure",
        "g": """hskip vskip kern hsize vsize hoffset voffset parskip parindent baselineskip topmargin oddsidemargin evensidemargin textwidth
        textheight headsep headheight footskip tolerance hbadness vbadness pretolerance overfullrule hfuzz vfuzz abovedisplayskip
        belowdisplayskip abovedisplayshortskip belowdisplayshortskip lineskip lineskiplimit normalbaselineskip magnification
        leftskip rightskip hangindent hangafter penalty looseness widowpenalty clubpenalty topskip epsfxsize epsfysize
        jot arraycolsep tabcolsep columnsep footnotesep interdisplaylinepenalty pageno raise lower moveleft moveright
        mathsurround thinmuskip_ medmuskip_ thickmuskip_ displayindent displaywidth interlinepenalty brokenpenalty binoppenalty
        relpenalty everypar_ floatsep textfloatsep intextsep unitlength arrayrulewidth fboxsep fboxrule columnseprule emergencystretch
        doublehyphendemerits finalhyphendemerits adjdemerits spaceskip xspaceskip maxdepth splittopskip predisplaypenalty postdisplaypenalty
        vglue hglue mkern mskip itemsep parsep topsep partopsep leftmargin rightmargin listparindent labelwidth labelsep
        secnumdepth_ tocdepth_ baselineskip_ hrule vrule advance multiply divide skip dimen count font
        mag delimitershortfall delimiterfactor nulldelimiterspace predisplaysize hyphenpenalty exhyphenpenalty showboxdepth showboxbreadth
        parfillskip footline_ headline_ abovecaptionskip belowcaptionskip textfont scriptfont scriptscriptfont fam newfam newcount newdimen
        catcode mathcode lccode uccode sfcode chardef mathchardef countdef dimendef skipdef tracingall """,
    }.items()
    for name in names.split()
    if not name.endswith("_")
}
DROPPED = {name: signature.rstrip("_") for name, signature in DROPPED.items()}
DROPPED.update(
    {
        "newtheorem": "*momo",
        "cline": "m", "cmidrule": "opm", "multicolumn": "mm", "multirow": "omom", "rotatebox": "om", "newtheoremstyle": "mmmmmmmmm",
        "setbox": "g", "sisetup": "m", "linebreak": "o", "epsfbox": "om", "rule": "omm", "hbox": "g", "vbox": "g", "vtop": "g",
    }
)  # fmt: skip

# The first arguments of these go, what follows them is text.
UNWRAPPED: dict[str, str] = {
    "textcolor": "om", "colorbox": "om", "fcolorbox": "omm", "parbox": "ooom", "raisebox": "moo", "makebox": "poo", "framebox": "poo",
    "scalebox": "mo", "resizebox": "*mm", "hyperref": "o", "hyperlink": "m", "href": "om", "hypertarget": "m", "foreignlanguage": "m",
    "fontsize": "mm", "rotatebox": "om", "texorpdfstring": "", "footnote": "", "adjustbox": "m", "shortstack": "o", "savebox": "moo",
    "section": "o", "multicolumn": "mm", "multirow": "omom", "stepcounter": "m", "uppercase": "", "MakeUppercase": "", "selectfont": "",
    "put": "p", "makecell": "o", "adjustimage": "m", "textblockcolour": "m", "phantomsection": "", "ulined": "",
}  # fmt: skip

# ---------------------------------------------------------------- commands that stay

SECTIONS = words("part chapter section subsection subsubsection paragraph subparagraph")
# Headings of plain TeX, AMS-TeX and other classes, with the LaTeX that they become; the argument is in braces.
HEADINGS = {"newsec": "section", "subsec": "subsection", "subsubsec": "subsubsection", "heading": "section", "subheading": "subsection",
            "head": "section", "subhead": "subsection", "specialhead": "section", "mysection": "section", "Section": "section",
            "IEEEsection": "section", "chap": "chapter", "sect": "section"}  # fmt: skip
CITES = words(
    """cite citep citet citealp citealt citeauthor citeyear citeyearpar Cite Citep Citet Citealp Citealt Citeauthor citenum onlinecite
    parencite textcite autocite footcite fullcite smartcite supercite parencites textcites autocites footfullcite citetitle
    citename shortcite citeasnoun citeN citeNP shortciteN cites rcite refcite citen citefull citetext_ Parencite Textcite Autocite
    citeA shortciteA citeNN citeANP citeyearNP citeANN shortciteNP fullciteA citeonline possessivecite citetalias citepalias bibentry"""
)
TEXTUAL_CITES = words(
    "citet Citet textcite Textcite citealt citeauthor Citeauthor citeasnoun citeN shortciteN refcite onlinecite citeA shortciteA possessivecite citealp citenum citetitle fullcite bibentry"
)
REFS = {"ref": "*", "pageref": "*", "eqref": "(*)", "autoref": "*", "cref": "*", "Cref": "*", "vref": "*", "nameref": "*", "prettyref": "*",
        "subref": "*", "labelcref": "*", "namecref": "*", "thref": "*", "fref": "*", "Fref": "*", "sref": "*", "vpageref": "*", "fullref": "*",
        "zref": "*", "autopageref": "*", "cpageref": "*", "hyperref_": "*", "ref*": "*", "lcnamecref": "*", "Autoref": "*", "Vref": "*",
        "eqrefs": "(*)", "secref": "*", "crefrange": "*", "cpagerefrange": "*", "eq_ref": "*"}  # fmt: skip
TWO_ARGUMENT_REFS = words("crefrange Crefrange cpagerefrange vrefrange")
# Words after which a sentence needs an object: a citation behind one of them leaves `[*]`, any other goes.
NEED_OBJECT = words(
    """in see of by from to with e.g. cf. cf ref. refs. ref refs reference references and or following also than as per via for on at
    into under work works paper papers article articles book books e.g eg i.e. both method approach result results theorem lemma proposition
    section chapter page corollary eq. eqs. notably since that are is was where when while extends extend extending generalizes generalize improves
    improve proves prove shows show compare consult after before between using use used uses like unlike given survey surveys"""
)

SYMBOLS = {
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
    "textonequarter": "¼", "texttimes": "×", "textpm": "±", "aleph_": "", "backslash_": "",
}  # fmt: skip
# A control symbol in prose and what it becomes; the rest are accents or go.
CONTROL_SYMBOLS = {
    "%": "\\%", "$": "\\$", "{": "\\{", "}": "\\}", "&": "&", "#": "#", "_": "_", " ": " ", "\n": "\n", "\t": " ", ",": " ", ";": " ",
    ":": " ", ">": " ", "!": "", "/": "", "-": "", "@": "", "*": "", "+": "", "|": "", "<": "",
}  # fmt: skip
# Accents: the combining character that follows the letter.
ACCENTS = {
    "`": "\u0300", "'": "\u0301", "^": "\u0302", "~": "\u0303", '"': "\u0308", "=": "\u0304", ".": "\u0307", "u": "\u0306", "v": "\u030c",
    "H": "\u030b", "c": "\u0327", "d": "\u0323", "b": "\u0331", "k": "\u0328", "r": "\u030a", "t": "\u0361", "C": "\u030f",
}  # fmt: skip

# ---------------------------------------------------------------- macros

# The cleaner reads these itself: a redefinition changes how they look, not what they mean.
PROTECTED = (
    SECTIONS
    | words(
        """begin end item label ref cite document documentclass documentstyle maketitle title author date input include footnote caption
    usepackage RequirePackage thebibliography bibliography bibliographystyle bibitem par def let newcommand renewcommand emph textbf textit the frac left right
    today thanks footnotetext footnotemark includegraphics index newblock appendix appendixname"""
    )
    | frozenset("\\()[]{}$%&# ")
)
# Commands that take an argument: a macro of several tokens that stands directly behind one is put in braces.
ARGUMENT_TAKERS = words(
    """frac tfrac dfrac cfrac sqrt hat widehat tilde widetilde bar overline underline vec dot ddot check breve acute grave mathring mathbf mathrm mathcal
    mathbb mathfrak mathsf mathit mathscr boldsymbol bm pmb text textbf textit textrm mbox operatorname overset underset stackrel overbrace underbrace
    overrightarrow overleftarrow binom tbinom dbinom emph"""
)
CONDITIONALS = words(
    """iffalse iftrue ifx ifnum ifdim ifodd ifcase if ifcat ifdefined ifcsname ifvmode ifhmode ifinner ifvoid ifhbox ifvbox ifeof ifmmode"""
)
# Names that start with "if" and have no \fi.
NOT_CONDITIONALS = words(
    """iff ifthenelse iflanguage ifstrequal ifstrempty ifblank ifnotblank ifdefempty ifundef ifdef ifcsdef ifcsundef ifboolexpr ifbool iftoggle
    ifnumcomp ifnumequal ifpackageloaded ifcitation ifentrytype iffieldundef ifnextchar ifempty ifinlist ifstar ifcsstring ifblock IfFileExists
    ifdefstring ifnumgreater ifnumless ifnumodd ifdimcomp ifdimequal if@"""
)
# Conditionals that packages define, as they stand in a run of pdfLaTeX.
PACKAGE_FLAGS = {
    "ifpdf": True, "ifPDFTeX": True, "ifpdftex": True, "ifxetex": False, "ifXeTeX": False, "ifluatex": False, "ifLuaTeX": False, "ifvtex": False,
    "ifdvi": False, "ifOnline": False, "ifCLASSOPTIONcompsoc": False, "ifCLASSOPTIONcaptionsoff": False, "ifCLASSINFOpdf": True,
    "ifCLASSOPTIONonecolumn": False, "ifCLASSOPTIONpeerreview": False,
}  # fmt: skip
