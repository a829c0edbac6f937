"""The labelled lists of PASCAL VOC that papers report figures on, by the SHA-256 of their sorted ids.

Figures on two of them are comparable only within a family: "1/8" is 1,323 images with 193 of VOC's own masks in CPS's
list, and 1,323 of 1,323 in U2PL's. No ids are kept here. A digest is that of `id_lists.list_digest`, and identifies
a list in any order and dialect.

Names are "repository file"; CPS is TorchSemiSeg, PseudoSeg is google/wss. A repository without a file holds the same
ids under another name. The classic lists are in all repositories; only 732 has two versions, since PseudoSeg's
repository lacks it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class PublishedList:
    """A labelled list: its family, its name there, its numbers of ids and of VOC's own masks, and all its names."""

    family: str
    name: str
    count: int
    official: int
    names: tuple[str, ...]

    def __str__(self) -> str:
        share = f"{100 * self.official / self.count:.1f}".removesuffix(".0")
        return f"{self.family} list {self.name} ({self.count:,} ids, {share} % official masks)"


def _classic(name: str) -> tuple[str, ...]:
    """The names of a classic list, which is in all repositories."""
    others = ("UniMatch V2", "CorrMatch", "AllSpark", "SemiVL", "iMAS", "CCVC", "AugSeg")
    return (f"UniMatch {name}", f"U2PL {name}", f"ST++ {name}/split_0", *others)


_CPS_USERS = ("iMAS", "CorrMatch", "CCVC", "AllSpark", "PS-MT", "AugSeg")
_U2PL_USERS = ("AllSpark", "PS-MT", "AugSeg")

PUBLISHED: Mapping[str, PublishedList] = {
    # Drawn from VOC's own 1,464: every mask is official.
    "124b0aab2fcd1767214bf465d8fa24dd179c3abe99951a063a92d11c48663987": PublishedList(
        "classic", "92", 92, 92, (*_classic("92"), "CPS pseudoseg_labeled_1-16", "PS-MT 92", "PseudoSeg 16_clean_3")
    ),
    "79b959bccf7753cd70bba8d5abdb7e9c0f16df053ce458916ae19a897149136d": PublishedList(
        "classic", "183", 183, 183, (*_classic("183"), "CPS pseudoseg_labeled_1-8", "PS-MT 183", "PseudoSeg 8_clean")
    ),
    "f0e702c687e2ba711cb726ace02e2bb0b5571fd73bb3e2419441cd53c196416b": PublishedList(
        "classic", "366", 366, 366, (*_classic("366"), "CPS pseudoseg_labeled_1-4", "PS-MT 366", "PseudoSeg 4_clean")
    ),
    "4343386598d07b0bfeaa3130b751541da5b758199170ca5cd2e38ac51f93cacf": PublishedList(
        "classic", "92, split 1", 92, 92, ("ST++ 92/split_1", "PseudoSeg 16_clean_14")
    ),
    "89c08fc17f50ff6ed0bb7b0c95e13c88382fbdae79f8560471f5a5eb49ad87ac": PublishedList(
        "classic", "92, split 2", 92, 92, ("ST++ 92/split_2", "PseudoSeg 16_clean_20")
    ),
    "8c23014f512884b9ef51e91113e69b7197de6e53c699019956d3874998a005b0": PublishedList(
        "classic", "732", 732, 732, _classic("732")
    ),
    "1c27978cdf51017454c1d23e5e93c7e509ef1bb49acd62522ea5392e632e1074": PublishedList(
        "classic", "732, version II", 732, 732, ("CPS pseudoseg_labeled_1-2", "PS-MT 732")
    ),
    "129f1fe991729b1862115b77738c938c149c1f167baa02b4b3186aea9f0d6a84": PublishedList(
        "classic", "1464", 1464, 1464, ("VOC train", "UniMatch 1464", "U2PL 1464", "ST++ 1.4k")
    ),
    # Drawn from all 10,582; nested.
    "baa85754594fcd33c7f06d9ef173db9f70a0c32f826a2958668ee406db9f7c5a": PublishedList(
        "CPS", "1/16", 662, 93, ("CPS train_aug_labeled_1-16", "UniMatch 1_16", *_CPS_USERS)
    ),
    "c9ca45b4e688d408cd0856e9d17bdf99a8c9bd1de09d33023e578cdb9a49f1a3": PublishedList(
        "CPS", "1/8", 1323, 193, ("CPS train_aug_labeled_1-8", "UniMatch 1_8", *_CPS_USERS)
    ),
    "fd0e8dca3dac524cf3b8c2b8540bc67bac1fb5df93e562faf35232e90c444295": PublishedList(
        "CPS", "1/4", 2646, 388, ("CPS train_aug_labeled_1-4", "UniMatch 1_4", *_CPS_USERS)
    ),
    "5338f277730143e02973ac654d6f0fb43e6758bd22769161397c42f08c818e0b": PublishedList(
        "CPS", "1/2", 5291, 742, ("CPS train_aug_labeled_1-2", *_CPS_USERS)
    ),
    # VOC's own masks first, SBD's only when those are used up.
    "feea4692738362e449721faff842a3aa103bf984f7d6dd748eeb511a6f722fe5": PublishedList(
        "U2PL", "1/16", 662, 662, ("U2PL 662", "UniMatch u2pl_1_16", *_U2PL_USERS)
    ),
    "23921931a21324cfefdf4c67d4d2119d73c2c599bee9a95684ed802c2d134916": PublishedList(
        "U2PL", "1/8", 1323, 1323, ("U2PL 1323", "UniMatch u2pl_1_8", *_U2PL_USERS)
    ),
    "d35f7cd4b4815e1d83809e2acd19fe536e92319823a8a83353f20e68b2f96899": PublishedList(
        "U2PL", "1/4", 2646, 1464, ("U2PL 2646", "UniMatch u2pl_1_4", *_U2PL_USERS)
    ),
    "aacb97f26e9468b4eb3c6403cb39ab0c5fa0f6bd63b292f61e6ee5dfacfd5fc6": PublishedList(
        "U2PL", "1/2", 5291, 1464, ("U2PL 5291", *_U2PL_USERS)
    ),
    # Drawn from all 10,582, three times.
    "70187bd5e19416a6d3f82065f431ce7c4265ff21c7164c8c878d56b687d01ae7": PublishedList(
        "ST++", "1/16, split 0", 662, 85, ("ST++ 1_16/split_0",)
    ),
    "0b996766ba8ccfd686477e456706f229f89d5840ebf275755265748a82f8c5b8": PublishedList(
        "ST++", "1/16, split 1", 662, 89, ("ST++ 1_16/split_1",)
    ),
    "0ccdcc314066bc4e734930262e82fb8c24463f32e000d415f7834d909f744f22": PublishedList(
        "ST++", "1/16, split 2", 662, 105, ("ST++ 1_16/split_2",)
    ),
    "fa19d836f741bda98375888603554591a3a1b1df2afbe9e9ae59048761570ab2": PublishedList(
        "ST++", "1/8, split 0", 1323, 177, ("ST++ 1_8/split_0", "PixelSSL 1-8/1")
    ),
    "95017789320b97d9fdeae344ad97609ae62cf78ef4be889eae7b2f74012244c3": PublishedList(
        "ST++", "1/8, split 1", 1323, 184, ("ST++ 1_8/split_1",)
    ),
    "882389cda21116caf958ce9d195294d9b5f6433668b04b196d63c50672876dda": PublishedList(
        "ST++", "1/8, split 2", 1323, 205, ("ST++ 1_8/split_2",)
    ),
    "28d7edd5232fc11d46823c134dcb293bb9d8676437d687ce990ab2b5dab11bd2": PublishedList(
        "ST++", "1/4, split 0", 2645, 375, ("ST++ 1_4/split_0",)
    ),
    "7913432dd5c25e0e06bbbe29cab5580d4b7d53a88f481971d3922261e734f15d": PublishedList(
        "ST++", "1/4, split 1", 2645, 340, ("ST++ 1_4/split_1",)
    ),
    "051fda05832de3cad637959d236c90a141548180b6d31c63cd09d5e960c438c3": PublishedList(
        "ST++", "1/4, split 2", 2645, 335, ("ST++ 1_4/split_2",)
    ),
    # The first ids of one order of the 10,582 (split_0.pkl).
    "494702715ac108a9aea6dc9d7ad850f5f9a0d5e0d165b7fbf76f49113e426a6e": PublishedList(
        "s4GAN", "first 106", 106, 13, ("CutMix-Seg 106",)
    ),
    "1422db618e3d1e0653c7c393982b70b329b70e27c09829cbc0d4ab12582d0bee": PublishedList(
        "s4GAN", "1/50", 211, 27, ("s4GAN 1/50",)
    ),
    "0f242c70a697c1458ecca1090756e947188e4bb5b46122f57a8a4c8c27391a3a": PublishedList(
        "s4GAN", "first 212", 212, 28, ("CutMix-Seg 212",)
    ),
    "eac3f69eeaccf3bb39651ca2d7c12a2657865e1e5011c62bc72de0246ef908d6": PublishedList(
        "s4GAN", "1/20", 529, 86, ("s4GAN 1/20", "CutMix-Seg 529")
    ),
    "7b6398dc2987b80e9ce6c2833af6c4f95eb5b3e376fed119318c934f5a5f74cf": PublishedList(
        "s4GAN", "1/8", 1322, 207, ("s4GAN 1/8",)
    ),
    "306327ff63805d9ce23e7b9f12eb44085b2e7cb20b2b3af78d65dfdb261ce043": PublishedList(
        "s4GAN", "first 1323", 1323, 207, ("CutMix-Seg 1323",)
    ),
    "73d9698387c019982a7daf08d465bf99938431eab48d3a886183e3e3aa9cb2e1": PublishedList(
        "s4GAN", "1/4", 2645, 392, ("s4GAN 1/4",)
    ),
    "3fed9678343f4429ae29956766e5ffebdb4037cd7d200f2a3205c4ab49bf0435": PublishedList(
        "s4GAN", "1/2", 5291, 746, ("s4GAN 1/2",)
    ),
    # Everything: full supervision.
    "855dff350b7f447bf43cb98ea626a32e0d0b3b7c5786e03b2712a21355b635bf": PublishedList(
        "VOC", "trainaug", 10582, 1464, ("VOC and SBD train_aug",)
    ),
}
