"""Words that tell what a step does with a value. All are compared in lower case."""

from __future__ import annotations

import re


def _words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", text))


# The word for answer, in several languages. East Asian ones are written without blanks: it is part of its token.
ANSWER = re.compile(
    r"answers?|ans|choice|option|respuesta|réponse|antwort|risposta|resposta|ответ|.*答案.*|.*答え.*|.*정답.*|.*답은"
)
# Before a value:
DENIED = re.compile(
    r"\b(?:not|cannot|\w+n't|never|no|nicht|kein|pas|не|than|below|above|between|at least|at most)\b|不"
)
SUPPOSED = re.compile(r"\b(?:if|suppos\w*|assum\w*|imagine|were|would|could|might|may|unless|whether)\b")
ARITHMETIC = re.compile(r"\b(?:add(?:s|ed|ing)?|subtract\w*|multipl(?:y|ied|ying)|divid\w*|plus|minus|times)\b")
# After a value, which is then not the whole:
MULTIPLIED = re.compile(r"times|more|less|fewer|greater|larger|smaller|higher|lower|plus|minus")
DENIED_AFTER = re.compile(r"(?:is|are|was) not\b|isn't\b|aren't\b|wasn't\b")
# What is said holds for one case among several, or for a part:
RESTRICTED = re.compile(r"\b(?:case|when|where|each|every|per|example|instance|initial\w*|part\w*|other)\b")

# A conclusion begins:
CONCLUDES = re.compile(r"\b(?:so|thus|hence|therefore|consequently|accordingly|conclude|finally|follows|altogether)\b")
# Verbs that lead to a value: `the area is 5`, `solving gives 5`.
LINKS = _words("is are be was equals equal becomes comes totals measures has sums amounts evaluates makes")
ANNOUNCES = _words(
    """
    end ends equals find get gets give gives giving lead leading leads leaves obtain results return returns yield
    yielding yields
    """
)
DETERMINERS = _words("the its this our my their an a")
PREPOSITIONS = _words("of in on at for from to with by between under over below above through")
# Words that do not say what a value is the value of.
EMPTY = ANNOUNCES | _words(
    """
    a about actual actually after again all also altogether always am amount amounts an and are arrive arrives as
    at be been being becomes boils both by clearly come comes coming conclude confirms consequently correct course
    desired directly down easily entire equal equaling equation evaluates eventually exact exactly exist exists
    fact final finally follows for from going had has have hence here how however i immediately in indeed is it
    its itself just know known leave leaving left make makes making me mean means must my namely necessarily need
    now obtained obtains obviously of on one only our out overall precisely problem question really reduces remain
    remains requested required result resulting right said see shall should show simplifies simply so sought still
    such that the then there therefore these they this those thus to together true turn turns ultimately up us
    wanted was we well what which whole will whose with work works

    square cubic unit units cm km mm inches feet meters metres miles dollars cents degrees points hours minutes
    seconds years days
    """
)
# Words for anything that a question may ask for.
RESULTS = _words("answer result solution sum total value number count quantity expression set length ways arrangements")
