"""Common words that generated conversations are made of; none belongs to a trade."""

# Lists of words read best as prose.
# ruff: noqa: SIM905
from __future__ import annotations

# A repeated word only weighs more in a draw.
NOUNS = tuple(
    """answer area bird board boat bridge building camera capital car case channel chart city
    class clock cloud code color company corner country course cycle date day days degree desk
    device distance door engine event example farm field file fire flight floor flower forest
    form friend game garden goal group hand head height hill history home hour house idea image
    island job journey key kind lake language law length letter level library light line list
    machine map mark market meeting memory message metal minute model moment month moon mountain
    movie music name network night note number ocean office order page paper park part pattern
    person phone picture piece place plan planet plant player point position power problem
    process program project question rain range rate reading record region report rest river
    road role room root route rule sample school score screen sea season second section sensor
    sentence series server set shape ship side sign signal size sky song sound source space
    speed sport stage star state station step stone storm story street student subject summary
    sun surface system table task team temperature term test text thing time tool total tower
    town track train tree type unit user value version view village voice volume wall water
    way week weight wheel wind window winter word work world worker year zone analyst assistant
    expert helper agent policy sum status amount count people life mile
    entity feature detail member note result source target times limit batch share ratio rank
    owner money dollars risk share times""".split()
)

VERBS = tuple(
    """add answer ask be become begin bring build call change check choose close collect compare
    compute copy count create cut describe do draw drive explain fetch fill find finish follow
    get give go help hold inspect keep know learn leave lift list load look make mark measure
    meet move name need offer open paint pass pick plan play point put query read record reply
    report run say search see send set show solve start stay stop study take talk tell think
    track try turn use wait walk watch will work write has have had did does was were made seen
    spend spent buy bought receive expect lose went came come would could should shall can must
    be is are""".split()
)

ADJECTIVES = tuple(
    """able active all any bad big black blue bright busy calm cheap clean clear clever cold cool
    current daily dark deep dry early easy empty equal exact extra fair fast final fine first
    flat free fresh full general global good gray great green hard heavy high hot hungry inner
    joint kind large last late left light likely little local long loose loud low main many most
    narrow native near new next nice old open outer past plain poor public pure quick quiet rare
    raw real recent red regular rich right round safe same sharp short silent simple single slow
    small smart soft solid some special stable steady still strange strong sure sweet tall thick
    thin tiny tired true upper useful usual warm weak wet whole wide wild wise wrong yellow
    young often ago since whether again back much many long recent away brief most how when what
    our us we you them they there who if to from in on no not yes so only""".split()
)

NAMES = tuple(
    """Analyst Helper Assistant Agent Guide Clerk Scout Pilot Reader Solver Finder Worker""".split()
)
