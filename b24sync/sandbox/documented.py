"""Documented field names of kinds other than CRM entities, for a sandbox with strict fields.

A kind that is not listed keeps whatever is sent.
Source: the fields tables of each kind's add method in the manual.
"""


def _names(listed: str) -> frozenset[str]:
    return frozenset(listed.split())


_FIELDS: dict[str, frozenset[str]] = {
    "activity": _names(
        "OWNER_ID OWNER_TYPE_ID TYPE_ID PROVIDER_ID PROVIDER_TYPE_ID SUBJECT DESCRIPTION"
        " DESCRIPTION_TYPE DIRECTION START_TIME END_TIME DEADLINE COMPLETED STATUS PRIORITY"
        " RESPONSIBLE_ID LOCATION COMMUNICATIONS FILES BINDINGS ORIGINATOR_ID ORIGIN_ID"
        " ORIGIN_VERSION NOTIFY_TYPE NOTIFY_VALUE TITLE PING_OFFSETS COLOR_ID PARENT_ACTIVITY_ID"
    ),
    "comment": _names("ENTITY_ID ENTITY_TYPE COMMENT FILES AUTHOR_ID"),
    "requisite": _names(
        "ENTITY_TYPE_ID ENTITY_ID PRESET_ID NAME CODE XML_ID ORIGINATOR_ID ACTIVE ADDRESS_ONLY"
        " SORT RQ_NAME RQ_COMPANY_NAME RQ_COMPANY_FULL_NAME RQ_INN RQ_KPP RQ_OGRN RQ_OKPO"
        " RQ_DIRECTOR RQ_ACCOUNTANT RQ_FIRST_NAME RQ_LAST_NAME RQ_SECOND_NAME RQ_EMAIL RQ_PHONE"
        " RQ_VAT_ID"
    ),
    "bank_detail": _names(
        "ENTITY_ID COUNTRY_ID NAME CODE XML_ID ORIGINATOR_ID ACTIVE SORT COMMENTS RQ_BANK_NAME"
        " RQ_BANK_ADDR RQ_BIK RQ_ACC_NUM RQ_ACC_CURRENCY RQ_COR_ACC_NUM RQ_IBAN RQ_SWIFT"
    ),
    "task": _names(
        "TITLE DESCRIPTION DEADLINE START_DATE_PLAN END_DATE_PLAN PRIORITY ACCOMPLICES AUDITORS"
        " TAGS ALLOW_CHANGE_DEADLINE TASK_CONTROL PARENT_ID GROUP_ID RESPONSIBLE_ID CREATED_BY"
        " TIME_ESTIMATE MARK ALLOW_TIME_TRACKING STATUS STAGE_ID XML_ID DEPENDS_ON"
    ),
    "product": _names(
        "iblockId name active code xmlId sort detailText previewText detailPicture previewPicture"
        " iblockSectionId measure vatId vatIncluded quantity weight width height length"
        " purchasingPrice purchasingCurrency quantityTrace canBuyZero"
    ),
    "product_row": _names(
        "ownerId ownerType productId productName price priceExclusive priceNetto priceBrutto"
        " quantity discountTypeId discountRate discountSum taxRate taxIncluded customized"
        " measureCode measureName sort type xmlId"
    ),
}


def known_fields(kind: str) -> frozenset[str] | None:
    """The documented fields of a kind; None if the sandbox has no list of them.

    Raises: nothing.
    """
    return _FIELDS.get(kind)
