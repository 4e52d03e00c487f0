"""A shop's own mapped classes, as an application has them; what the tests of capturing change."""

from sqlalchemy import ForeignKey, String
from sqlalchemy.ext.hybrid import hybrid_property
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship


class Base(DeclarativeBase):
    """The shop's tables."""

    type_annotation_map = {str: String(100)}  # noqa: RUF012 - as SQLAlchemy has it


class Company(Base):
    """Known by a code of its own."""

    __tablename__ = "shop_company"

    id: Mapped[int] = mapped_column(primary_key=True)
    code: Mapped[str] = mapped_column(unique=True)
    name: Mapped[str]
    customers: Mapped[list["Customer"]] = relationship(back_populates="company")


class Customer(Base):
    """Has orders, which are nothing without it, and may belong to a company."""

    __tablename__ = "shop_customer"
    __mapper_args__ = {"polymorphic_on": "sort", "polymorphic_identity": "usual"}  # noqa: RUF012 - as SQLAlchemy has it

    id: Mapped[int] = mapped_column(primary_key=True)
    sort: Mapped[str] = mapped_column(default="usual")
    first_name: Mapped[str | None]
    last_name: Mapped[str | None]
    tenant: Mapped[str] = mapped_column(default="default")
    remark: Mapped[str | None]
    is_public: Mapped[bool] = mapped_column(default=True)
    visits: Mapped[int] = mapped_column(default=0)
    revision: Mapped[int] = mapped_column(default=1, onupdate=lambda: 2)
    company_id: Mapped[int | None] = mapped_column(ForeignKey("shop_company.id"))
    company: Mapped[Company | None] = relationship(back_populates="customers")
    orders: Mapped[list["Order"]] = relationship(
        back_populates="customer", cascade="all, delete-orphan", order_by="Order.id"
    )

    @hybrid_property
    def full_name(self) -> str:
        """What it is called."""
        return f"{self.first_name} {self.last_name}"


class Member(Customer):
    """A customer with a card, in a table of its own."""

    __tablename__ = "shop_member"
    __mapper_args__ = {"polymorphic_identity": "member"}  # noqa: RUF012 - as SQLAlchemy has it

    id: Mapped[int] = mapped_column(ForeignKey("shop_customer.id"), primary_key=True)
    card: Mapped[str]


class Order(Base):
    """Belongs to a customer."""

    __tablename__ = "shop_order"

    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    customer_id: Mapped[int] = mapped_column(ForeignKey("shop_customer.id"))
    customer: Mapped[Customer] = relationship(back_populates="orders")


class Seat(Base):
    """Known by two columns."""

    __tablename__ = "shop_seat"

    hall: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    name: Mapped[str]
    is_sold: Mapped[bool] = mapped_column(default=False)
